"""Images on their way from noise, step by step, as a browser shows them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from overtone import precision
from overtone.data.images import Pixels, to_pixels
from overtone.errors import OvertoneError
from overtone.pipelines.batches import SampleBatch
from overtone.pipelines.pipeline import Pipeline
from overtone.pipelines.request import Request


@dataclass(frozen=True)
class Frame:
    """The images after a step."""

    images: Pixels
    """The states, scaled to the variance of the data, uint8 (batch, channels, height, width); of
    the last frame the images."""
    sigma: float
    """The noise level of the states."""
    step: int
    seconds: float
    """The seconds since the first step began."""
    expert: int | None = None
    """The number of the expert that took the step, from 1; None without experts."""
    batch: SampleBatch | None = None
    """The images as `Pipeline.stream` gives them, with the last frame alone."""


def frames(pipe: Pipeline, request: Request) -> Iterator[Frame]:
    """A frame after every step; the last has the images of `pipe.stream(request)`."""
    c_in = pipe.preconditioning.c_in
    denoiser: Any = pipe.denoiser
    begun, began = pipe.begin(request), time.monotonic()
    level = begun.sigma
    steps, number = begun.steps, 0
    step = next(steps)
    while True:
        number += 1
        # The expert that was asked is that of the level at which the step began.
        expert = None if denoiser.is_operator else denoiser.expert_at(level)
        told: dict[str, Any] = {
            "sigma": float(step.sigma),
            "step": number,
            "seconds": time.monotonic() - began,
            "expert": None if expert is None else expert + 1,
        }
        following = next(steps, None)
        if following is None:
            break
        shown = step.x_0 if pipe.vae is not None else step.x * (c_in(step.sigma) / c_in(0.0))
        with precision.autocast(pipe.precision, pipe.device):
            yield Frame(pipe.pixels(shown).cpu(), **told)
        level, step = float(step.sigma), following
    with precision.autocast(pipe.precision, pipe.device):
        unrounded = pipe.decoded(step.x)
    if not torch.isfinite(step.x).all():
        raise OvertoneError(
            "The images are not finite: guidance is too strong, or the model is damaged."
        )
    images = pipe.start_of(request).finished(to_pixels(unrounded).cpu(), request.seeds)
    batch = SampleBatch(list(request.seeds), pipe.labels(request), images, unrounded)
    yield Frame(images, batch=batch, **told)
