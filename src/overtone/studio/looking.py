"""The page that shows where a model attends, under the pointer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from overtone.studio.draw import attention
from overtone.studio.form import TURN, chosen
from overtone.studio.studio import Studio
from overtone.studio.telling import told
from overtone.studio.wish import Wish

SCRIPT = (Path(__file__).parent / "looking.js").read_text("utf-8")
STYLE = """
.levels { display: flex; gap: 12px; overflow-x: auto }
.levels > div { flex: none }
.levels canvas[tabindex] { touch-action: none }
.levels figure { margin: 0 }
.levels canvas { width: 150px; height: 150px; image-rendering: pixelated; border-radius: 4px }
.levels canvas:focus { outline: 3px solid #3b5bdb }
"""


def page(studio: Studio) -> None:
    with gr.Row():
        model = chosen(studio, min_width=240)
        seed = gr.Number(0, label="Seed", precision=0)
        button = gr.Button("Look", variant="primary")
    gr.Markdown(
        "The first row shows the estimates of the image at some noise levels. Move the pointer over"
        " one of them, or use the arrow keys when it has the focus. Below it, each layer lights up"
        " where that place attends."
    )
    shown = gr.HTML(
        "{}", html_template='<div class="levels" data-attention=\'${value}\'></div>',
        css_template=STYLE, js_on_load=SCRIPT, elem_id="attention",
    )  # fmt: skip

    def look(name: str, number: Any) -> Iterator[str]:
        yield "{}"  # the maps of the model before are gone
        pipe, request = studio.asked(name, Wish(number, 1))
        yield attention(pipe, request)

    button.click(
        told(look, studio.limits),
        [model, seed],
        shown,
        concurrency_id=TURN,
        api_visibility="private",
    )
