"""The page on which an operator makes in one evaluation what another model makes step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
import torch

from overtone.studio.draw import picture_of
from overtone.studio.form import TURN, chosen
from overtone.studio.live import frames
from overtone.studio.studio import Studio
from overtone.studio.telling import told
from overtone.studio.wish import Wish


def page(studio: Studio) -> None:
    operators = [name for name in studio.shelf.names if studio.shelf[name].sampler.is_operator]
    if not operators:
        gr.Markdown(
            "None of the models here is an operator. `overtone distill train` makes one of any"
            " model."
        )
        return
    with gr.Row():
        operator = chosen(studio, "Operator", operators.__contains__)
        teacher = chosen(studio, "Beside it", lambda name: name not in operators)
    with gr.Row():
        seed = gr.Number(0, label="First seed", precision=0)
        most = studio.limits.images
        count = gr.Slider(1, most, min(10, most), step=1, label="Number of images")
    button = gr.Button("Start both", variant="primary")
    with gr.Row():
        with gr.Column(min_width=300):
            first = gr.HTML("")
            one = gr.Markdown("", elem_id="one")
        with gr.Column(min_width=300):
            second = gr.HTML("")
            many = gr.Markdown("", elem_id="many")
    gr.Markdown("The operator's states, a row an image, all of one evaluation:")
    states = gr.HTML("")

    def race(one_name: str, other: str, first_seed: Any, number: Any) -> Iterator[Any]:
        asked_for = Wish(first_seed, number)
        pipe, request = studio.asked(one_name, asked_for)
        beside, same = studio.asked(other, asked_for)
        skip = gr.skip()
        for frame in frames(pipe, request):
            words = f"One evaluation: {frame.seconds:.2f} s"
            yield studio.shown(picture_of(frame.images), words), words, "", "", ""
        labels = pipe.labels(request)
        few = request.part(slice(0, 4), None if labels is None else labels[:4])
        states_of = pipe.trajectory(few).unbind(1)
        rows = torch.stack([pipe.pixels(state) for state in states_of], dim=1)
        picture = picture_of(rows.flatten(0, 1).cpu(), rows.shape[1])
        yield skip, skip, skip, skip, studio.shown(picture, "States from noise to image")
        for frame in frames(beside, same):
            words = f"Step {frame.step}: {frame.seconds:.2f} s"
            shown = studio.shown(picture_of(frame.images), words, last=frame.batch is not None)
            yield skip, skip, shown, words, skip

    button.click(
        told(race, studio.limits),
        [operator, teacher, seed, count],
        [first, one, second, many, states],
        concurrency_id=TURN,
        api_visibility="private",
        show_progress="hidden",
    )
