"""The page on which a receipt is replayed."""

from __future__ import annotations

import contextlib
import copy
import html
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image, UnidentifiedImageError

from overtone.data.images import Pixels
from overtone.errors import OvertoneError
from overtone.networks.network import digest_of
from overtone.pipelines.evaluations import evaluations_of
from overtone.pipelines.known import weights_of
from overtone.pipelines.load import public_model
from overtone.pipelines.pipeline import Pipeline
from overtone.pipelines.receipt import Receipt
from overtone.pipelines.receipt_files import kept_image, read_receipt
from overtone.pipelines.replay import Replayer
from overtone.pipelines.request import Request
from overtone.pipelines.seeds import seeds_of
from overtone.studio.draw import picture_of
from overtone.studio.form import TURN
from overtone.studio.limits import Limits
from overtone.studio.studio import Studio
from overtone.studio.telling import told
from overtone.studio.wish import Wish

MOST = 16
"""images of a grid that are made again"""
LONGEST = 400
"""letters of a sentence that is shown of a receipt"""
LONGEST_SEEDS = 2**16
"""letters of a receipt's seeds"""


def page(studio: Studio) -> None:
    gr.Markdown(
        "Every picture that Overtone makes says how it was made. Drop one here, and it is made"
        " again and compared."
    )
    with gr.Row():
        with gr.Column(min_width=300):
            file: Any = gr.File(label="A picture with a receipt", file_types=[".png", ".json"])
            # gradio would leave an empty file beside each.
            file.preprocess = lambda payload: None if payload is None else payload.path
            button = gr.Button("Make it again", variant="primary")
        with gr.Column(min_width=300):
            again = gr.HTML("")
            said = gr.HTML("", elem_id="replayed")

    def replay(path: str | None) -> tuple[str, str]:
        images, words = replayed(studio, path)
        return studio.shown(picture_of(images), words[0]), paragraphs(words)

    button.click(
        told(replay, studio.limits),
        file,
        [again, said],
        concurrency_id=TURN,
        api_visibility="private",
    )


def replayed(studio: Studio, path: str | None) -> tuple[Pixels, list[str]]:
    """The images of a receipt made again, and what is to be said of them. Raises `OvertoneError`
    for a file without one, for images of other models, and for what is beyond the limits."""
    file = studio.uploaded(path)
    _check_pixels(file, studio.limits.pixels)
    try:
        receipt = _modest(read_receipt(file), studio.limits)
    except OvertoneError as error:
        raise OvertoneError(str(error).replace(str(file), "the file")) from None
    if receipt.edit is not None:
        raise OvertoneError(
            "This image was made from a picture, which the receipt does not hold: overtone replay"
            " takes both."
        )
    name = _model_of(studio, receipt)
    pipe = _own(studio.shelf[name])
    seeds = [receipt.seed] if receipt.seed is not None else seeds_of(receipt.seeds)
    batch, labels = receipt.batch_of(seeds[0])
    Wish(min(batch), len(batch)).request(pipe, studio.limits)
    replayer = Replayer(pipe, receipt)
    taken = evaluations_of(pipe, Request(batch[:1], labels[:1] if labels else None))
    if taken > studio.limits.evaluations:
        raise OvertoneError(
            f"The image took {taken:g} function evaluations, and {studio.limits.evaluations} are"
            " the most here."
        )
    replays = []
    for seed in seeds[:MOST]:
        kept = kept_image(file, receipt, seed, pipe.resolution, pipe.channels)
        replays.append(replayer.of(seed, kept))
    words = [f"{name}: {_compared(replays)}"]
    if len(seeds) > MOST:
        words.append(f"These are the first {MOST} of {len(seeds)} images.")
    words += [f"It differs: {difference}." for difference in replayer.differences]
    return torch.stack([made.image for made in replays]), words


def paragraphs(words: list[str]) -> str:
    """Sentences as HTML. A receipt comes from anybody, and words of it may be among them."""
    return "".join(f"<p>{html.escape(part[:LONGEST])}</p>" for part in words)


def _check_pixels(file: Path, most: int) -> None:
    """Raises `OvertoneError` for a picture of more pixels, of which its header alone is read."""
    with contextlib.suppress(UnidentifiedImageError, OSError), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(file) as picture:
                pixels = picture.width * picture.height
        except Image.DecompressionBombError:
            pixels = most + 1
        if pixels > most:
            raise OvertoneError(f"A picture has at most {most:,} pixels here.")


def _compared(replays: list[Any]) -> str:
    """How many images are those of the file."""
    there = [made for made in replays if made.equal is not None]
    if not there:
        return "the images are made again. The file holds none to compare them with."
    equal = sum(bool(made.equal) for made in there)
    near = sum(made.succeeded for made in there)
    return (
        f"{equal} of {len(there)} images are the very same, and {near} are within one grey level."
    )


def _own(pipe: Pipeline) -> Pipeline:
    """A copy of a model, so that what a replay sets up is not there for other visitors."""
    own = copy.copy(pipe)
    if own.start.pipeline is not None:
        own.first = copy.copy(own.start.pipeline)
    return own


def _modest(receipt: Receipt, limits: Limits) -> Receipt:
    """The receipt without what would cost the studio's machine more than the image is worth. Raises
    `OvertoneError` for one that asks for more than others may, before anything is made of it."""
    if len(receipt.seeds) > LONGEST_SEEDS:
        raise OvertoneError("The receipt has more seeds than are read here.")
    account: Any = receipt.account
    while isinstance(account, dict):  # a relay, and then its first stage
        sampler, start = account.get("sampler"), account.get("start")
        steps = sampler.get("num_steps", 1) if isinstance(sampler, dict) else 1
        if not isinstance(steps, int) or steps > limits.evaluations:
            raise OvertoneError(
                f"The image has more steps than are taken here: {limits.evaluations} are the most."
            )
        account = start.get("first_stage") if isinstance(start, dict) else None
    threads = min(receipt.environment.threads, os.cpu_count() or 1)
    environment = replace(receipt.environment, threads=threads)
    return replace(receipt, environment=environment, compile=False)


def _model_of(studio: Studio, receipt: Receipt) -> str:
    """The model here that has the receipt's weights."""
    wanted = weights_of(receipt.account)
    names = studio.shelf.names
    for name in sorted(names, key=lambda name: public_model(name) != receipt.model):
        if digest_of(studio.shelf[name].network) == wanted:
            return name
    raise OvertoneError("None of the models here made this picture.")
