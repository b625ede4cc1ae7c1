"""The page on which images are made, live."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from overtone.errors import counted
from overtone.studio.draw import SPECTRA, picture_of, spectra, timeline
from overtone.studio.form import TURN, form, wish
from overtone.studio.live import frames
from overtone.studio.studio import Studio
from overtone.studio.telling import told


def page(studio: Studio) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            asked = form(studio)
            button = gr.Button("Make images", variant="primary")
        with gr.Column(scale=3, min_width=300):
            live = gr.HTML("<p>No image was made yet.</p>", elem_id="live")
            line = gr.HTML("")
            said = gr.Markdown("", elem_id="made")
    with gr.Accordion("Single images and the grid, each with its receipt", open=False):
        grid = gr.File(label="The grid", interactive=False)
        singles = gr.Gallery(
            label="Single images", columns=8, height="auto", interactive=False,
            elem_classes="pixels",
        )  # fmt: skip
    with gr.Accordion("Frequencies of these images", open=False):
        figure = gr.HTML("")

    def make(model: str, *values: Any) -> Iterator[Any]:
        pipe, request = studio.asked(model, wish(values))
        for frame in frames(pipe, request):
            last = frame.batch is not None
            whole, files, drawn = None, None, ""  # those of the images before are gone
            words = f"Step {frame.step}, sigma {frame.sigma:.3g}"
            if frame.batch is not None:
                whole, files = studio.files(model, pipe, request, frame.batch)
                drawn = studio.shown(spectra({model: frame.images}), SPECTRA)
                count = len(frame.images)
                words = (
                    f"{counted(count, 'image')} in {frame.seconds:.2f} s,"
                    f" {1000 * frame.seconds / count:.0f} ms each"
                )
            yield (
                studio.shown(picture_of(frame.images), words, last=last),
                timeline(pipe, request, frame),
                words,
                whole,
                files,
                drawn,
            )

    button.click(
        told(make, studio.limits),
        asked.inputs,
        [live, line, said, grid, singles, figure],
        concurrency_id=TURN,
        api_visibility="private",
        show_progress="hidden",
    )
