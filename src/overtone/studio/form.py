"""The fields that several pages have: which model, which seeds, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from overtone.studio.studio import Studio
from overtone.studio.telling import told
from overtone.studio.wish import Wish

TURN = "model"
"""Everything that asks a model waits in one queue: what computes has the machine for itself."""


@dataclass(frozen=True)
class Form:
    """The fields of a wish, in the order of its fields, and the model's."""

    model: Any
    fields: list[Any]

    @property
    def inputs(self) -> list[Any]:
        return [self.model, *self.fields]


def upload(label: str) -> Any:
    """A place for a picture whose file is handed on as it is: the studio reads it itself, with its
    own limits."""
    place: Any = gr.Image(label=label, sources=["upload", "clipboard"])
    # A subclass would do, but gradio writes an interface file beside the source of each.
    place.preprocess = lambda payload: None if payload is None else payload.path
    return place


def chosen(
    studio: Studio,
    label: str = "Model",
    fits: Callable[[str], bool] | None = None,
    *,
    place: int = 0,
    min_width: int = 160,
) -> Any:
    """A list of models, of which the one in a place is chosen, or the last."""
    names = [name for name in studio.shelf.names if fits is None or fits(name)]
    return gr.Dropdown(
        names,
        value=names[min(place, len(names) - 1)] if names else None,
        label=label,
        min_width=min_width,
    )


def form(studio: Studio, *, count: int = 16) -> Form:
    """Model, seeds and classes, and behind a heading guidance and evaluations."""
    limits = studio.limits
    model = chosen(studio)
    names = studio.classes(studio.shelf.names[0])
    facts = gr.Markdown(studio.facts(studio.shelf.names[0]))
    with gr.Row():
        seed = gr.Number(0, label="First seed", precision=0)
        number = gr.Slider(
            1, limits.images, min(count, limits.images), step=1, label="Number of images"
        )
    classes = gr.Dropdown(
        names,
        multiselect=True,
        allow_custom_value=True,
        label="Classes",
        info="If none is chosen, all take turns.",
    )
    with gr.Accordion("Guidance and evaluations", open=False):
        gr.Markdown("A field that is left empty is as the model was saved.")
        with gr.Row():
            scale = gr.Textbox(label="Guidance scale", info="1 is none.")
            high_scale = gr.Textbox(label="Guidance scale of high frequencies")
        with gr.Row():
            low = gr.Textbox(label="Lowest sigma of guidance")
            high = gr.Textbox(label="Highest sigma of guidance")
        evaluations = gr.Textbox(
            label="Function evaluations per image", info=f"1 to {limits.evaluations}."
        )
    model.change(
        told(
            lambda name: (gr.update(choices=studio.classes(name), value=[]), studio.facts(name)),
            limits,
        ),
        model,
        [classes, facts],
        concurrency_id="facts",  # facts are told while another visitor's images are made
        api_visibility="private",
        show_progress="hidden",
    )
    return Form(model, [seed, number, classes, scale, low, high, high_scale, evaluations])


def wish(values: tuple[Any, ...]) -> Wish:
    """The wish of a form's values, in the order of its fields."""
    return Wish(*values)
