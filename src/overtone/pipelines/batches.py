"""What a pipeline gives: images batch by batch, and the steps that lead to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from overtone.data.images import Pixels
from overtone.samplers.loop import Step


class SampleBatch(NamedTuple):
    """Some of the images asked for."""

    seeds: list[int]
    class_labels: Tensor | None
    images: Pixels
    unrounded: Tensor
    """The images before they were clipped and rounded, in [-1, 1], on the model's device."""


class Beginning(NamedTuple):
    """What sampling begins with, and what comes of it."""

    start: Tensor
    sigma: float
    """The noise level of the start."""
    class_labels: Tensor | None
    steps: Iterator[Step]
