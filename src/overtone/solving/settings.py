"""How samplers are fitted, as settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from overtone.ranges import (
    Batch,
    Count,
    Finite,
    LevelOrInfinity,
    LevelOrZero,
    Share,
    check_fields,
    within,
)

Way = Literal["auto", "whole", "checkpointed", "differences"]
Images = Annotated[int, within(32, 100_000)]


@dataclass(frozen=True)
class GuidanceSearch:
    """How guidance is fitted to a model."""

    images: Images = 500
    """The number of images that each setting of guidance is judged by."""
    recall_floor: Share = 0.9
    """The share of the recall without guidance that guidance has to keep."""

    def __post_init__(self) -> None:
        check_fields(self, lambda name: f"--search.{name.replace('_', '-')} must be")


@dataclass(frozen=True)
class FitSettings:
    """How samplers are fitted to a model."""

    evaluations: tuple[Annotated[int, within(1, 1000)], ...] = (4, 6, 8, 12)
    """The numbers of function evaluations per image, guidance and a first stage included, that a
    sampler is fitted for."""
    guidance_scale: Finite | None = None
    """The scale of guidance that the samplers are fitted under. If left out, it is the model's
    own."""
    guidance_interval: tuple[LevelOrZero, LevelOrInfinity] | None = None
    """The lowest and the highest sigma at which guidance acts. If left out, they are the model's
    own."""
    guidance_high_scale: Finite | None = None
    """The scale of guidance for high frequencies. If left out, it is --guidance-scale, or the
    model's own where that is left out too."""
    search_images: Images = 512
    """The number of images that the samplers are fitted on."""
    check_images: Images = 256
    """The number of other images that their errors are measured on."""
    iterations: Annotated[int, within(0, 100_000)] = 250
    """The iterations of Adam for each number of evaluations. 0 keeps the best of the grid."""
    batch_size: Batch = 64
    """The number of images in each iteration of Adam, and in each forward pass of the search."""
    trials: Count = 150
    """The largest number of settings that the grid search tries for each number of evaluations."""
    weights: bool = True
    """Fit the coefficients of the multistep solver as well, which weight the current and the
    earlier estimates and sum to 1. If switched off, the best multistep solver of the grid is
    kept."""
    epsilon_scale: bool = False
    """Fit epsilon_scale as well, the number that the predicted noise is divided by."""
    way: Way = "auto"
    """The gradient: whole (backpropagation through the sampler), checkpointed (step by step),
    differences (finite differences of the error), or auto, the first that fits into memory."""

    def __post_init__(self) -> None:
        check_fields(self, lambda name: f"--{name.replace('_', '-')} must be")
        if not self.evaluations or len(set(self.evaluations)) < len(self.evaluations):
            raise ValueError("--evaluations names different numbers, one or more")
