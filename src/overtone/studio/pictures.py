"""The page of one's own pictures: enlarged by a relay, or changed by any model."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr
from PIL import Image, ImageOps

from overtone.data.converting import to_mode
from overtone.data.images import to_pixels
from overtone.errors import OvertoneError
from overtone.pipelines.pictures import pixels_of, to_pil
from overtone.pipelines.pipeline import Pipeline
from overtone.pipelines.request import Request
from overtone.pipelines.upscale import upscale_tiled
from overtone.sizes import sides
from overtone.studio.draw import picture_of
from overtone.studio.form import TURN, chosen, upload
from overtone.studio.studio import Studio
from overtone.studio.telling import told
from overtone.studio.wish import Wish


def page(studio: Studio) -> None:
    relays = [name for name in studio.shelf.names if studio.shelf[name].process.upscale > 1]
    with gr.Tabs():
        with gr.Tab("Enlarge"):
            _enlarge(studio, relays)
        with gr.Tab("Change"):
            _change(studio)


def _enlarge(studio: Studio, relays: list[str]) -> None:
    if not relays:
        gr.Markdown("None of the models here is a relay. `overtone train relay-images` makes one.")
        return
    with gr.Row():
        with gr.Column(min_width=300):
            model = chosen(studio, "Relay", relays.__contains__)
            picture = upload("Your picture")
            gr.Markdown("Without a picture, the relay's first stage makes the small one.")
            kind = gr.Textbox(label="Class", info="Its name, or nothing where none of them fits.")
            seed = gr.Number(0, label="Seed", precision=0)
            button = gr.Button("Enlarge", variant="primary")
        with gr.Column(min_width=300):
            slider = gr.ImageSlider(label="Enlarged bicubically, and by the relay", format="png")
            said = gr.Markdown("", elem_id="enlarged")

    def enlarge(name: str, path: str | None, named: Any, number: Any) -> tuple[Any, str]:
        if name not in relays:
            raise OvertoneError("Choose one of the relays of the list.")
        pipe, request = studio.asked(name, Wish(number, 1, [named] if named else ()))
        began = time.monotonic()
        if path is None and pipe.start.pipeline is not None:
            small, (made,) = first_image(pipe, request), pipe(request)
        else:
            small, made = enlarged(pipe, request, path, bool(named))
        before = small.resize(made.size, Image.Resampling.BICUBIC)
        seconds = time.monotonic() - began
        return (before, made), f"{made.width} x {made.height} px in {seconds:.1f} s"

    def enlarged(
        pipe: Pipeline, request: Request, path: str | None, named: bool
    ) -> tuple[Image.Image, Image.Image]:
        """A visitor's picture as the model reads it, and larger."""
        small, _ = to_mode(studio.picture(path), "L" if pipe.channels == 1 else "RGB")
        upscale = pipe.process.upscale
        if small.width * small.height * upscale**2 > studio.limits.pixels:
            raise OvertoneError(
                f"The enlarged picture would have more than {studio.limits.pixels:,} pixels, which"
                " is the most here: choose a smaller one."
            )
        labels = pipe.labels(request) if named else None
        label = None if labels is None else int(labels[0])
        return small, upscale_tiled(pipe, small, label, request.seeds[0])

    button.click(
        told(enlarge, studio.limits), [model, picture, kind, seed], [slider, said],
        concurrency_id=TURN, api_visibility="private",
    )  # fmt: skip


def first_image(pipe: Pipeline, request: Request) -> Image.Image:
    """The small image that a relay goes on from at a seed."""
    stage = pipe.start.stage
    assert stage is not None
    made = stage.images(request.seeds, pipe.labels(request))
    return to_pil(to_pixels(made)[0].cpu())


def _change(studio: Studio) -> None:
    with gr.Row():
        with gr.Column(min_width=300):
            model = chosen(studio)
            picture = upload("Your picture")
            kind = gr.Textbox(label="Class", info="Its name, where the model has classes.")
            strength = gr.Slider(
                0, 1, 0.5, step=0.05, label="Strength",
                info="At 0 the picture stays as it is, at 1 nothing of it is left.",
            )  # fmt: skip
            seed = gr.Number(0, label="First seed", precision=0)
            count = gr.Slider(1, 16, 4, step=1, label="Number of images")
            button = gr.Button("Change", variant="primary")
        with gr.Column(min_width=300):
            shown = gr.HTML("", elem_id="changed")
            gr.Markdown("The first is your picture as the model sees it.")

    def change(name: str, path: str | None, named: Any, share: Any, first: Any, number: Any) -> str:
        pipe, request = studio.asked(name, Wish(first, number, [named] if named else ()))
        if pipe.num_classes and not named:
            raise OvertoneError("Say of which class the picture is.")
        size = sides(pipe.resolution)[::-1]
        fitted = ImageOps.fit(studio.picture(path), size, Image.Resampling.LANCZOS)
        fitted, _ = to_mode(fitted, "L" if pipe.channels == 1 else "RGB")
        made = pipe.edit(fitted, share, None, request.class_labels, request.seeds)
        images = pixels_of([fitted, *made], pipe.channels)
        return studio.shown(picture_of(images), "Your picture, and what the model made of it")

    button.click(
        told(change, studio.limits), [model, picture, kind, strength, seed, count], shown,
        concurrency_id=TURN, api_visibility="private",
    )  # fmt: skip
