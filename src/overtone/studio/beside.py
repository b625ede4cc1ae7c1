"""The page on which two models make images of the same seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from overtone.studio.draw import SPECTRA, picture_of, spectra
from overtone.studio.form import TURN, chosen, form, wish
from overtone.studio.live import frames
from overtone.studio.studio import Studio
from overtone.studio.telling import told


def page(studio: Studio) -> None:
    with gr.Row():
        with gr.Column(min_width=300):
            asked = form(studio)
        with gr.Column(min_width=300):
            other = chosen(studio, "Beside it", place=1)
            button = gr.Button("Make images of both", variant="primary")
            gr.Markdown(
                "Both models get the same seeds, and the classes of the same names. Guidance and"
                " evaluations hold for both."
            )
    with gr.Row():
        left = gr.HTML("", min_height=60)
        right = gr.HTML("", min_height=60)
    said = gr.Markdown("", elem_id="compared")
    figure = gr.HTML("")

    def make(model: str, second: str, *values: Any) -> Iterator[Any]:
        asked_for = wish(values)
        shown: list[Any] = ["", ""]
        made, words = {}, []
        # Both are checked before anything is made.
        parts = [(name, *studio.asked(name, asked_for)) for name in (model, second)]
        for place, (name, pipe, request) in enumerate(parts):
            for frame in frames(pipe, request):
                said_now = f"{name}: step {frame.step}, sigma {frame.sigma:.3g}"
                last = frame.batch is not None
                shown[place] = studio.shown(picture_of(frame.images), said_now, last=last)
                yield *shown, said_now, ""
            shown[place] = gr.skip()
            key = name if name not in made else f"{name}, again"
            made[key] = frame.images
            words.append(f"{name} took {frame.seconds:.2f} s.")
        yield gr.skip(), gr.skip(), " ".join(words), studio.shown(spectra(made), SPECTRA)

    button.click(
        told(make, studio.limits),
        [asked.model, other, *asked.fields],
        [left, right, said, figure],
        concurrency_id=TURN,
        api_visibility="private",
        show_progress="hidden",
    )
