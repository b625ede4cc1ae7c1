"""Recipes of progressive distillation: a model whose number of steps is halved, again and again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import tyro

from overtone import settings
from overtone.data.rules import Crop, Reading
from overtone.data.splits import HELD_OUT_SHARE
from overtone.errors import counted
from overtone.ranges import Count, Finite, Share, Steps
from overtone.training.configs.recipe import Recipe, teachers_network
from overtone.training.configs.training import (
    Reporting,
    ReportingOptions,
    Training,
    TrainingOptions,
)

OneStep = Literal["single", "averaged_slopes", "averaged_estimates"]
"""Forms of the estimate that need no earlier step."""


@dataclass(frozen=True)
class HalvingRecipe(Recipe, kind="halving"):
    """Everything that decides what a progressive distillation makes."""

    makes: ClassVar[str] = "overtone.training.halving:HalvingTask"
    trains: ClassVar[str] = "overtone.training.halving:train_halvings"
    command: ClassVar[str] = "distill halve"

    about: Annotated[str, tyro.conf.Suppress]
    """What the recipe is for, and what it needs."""
    teacher: str = ""
    """The model to distil: a saved pipeline, a run's directory, a repository of the Hub, or a
    diffusers pipeline of a U-Net or DiT."""
    data: str = ""
    """The images to train on. If left out, they are those that the teacher was trained on."""
    teacher_steps: Steps = 16
    """The number of steps of the first teacher. It is a power of two times the number of steps of
    the last student."""
    steps: Steps = 1
    """The number of steps of the last student, one function evaluation each."""
    solver: OneStep | None = None
    """How the first teacher takes a step: single is DDIM, as published; averaged_slopes is Heun's
    method, which is nearer to the ODE and evaluates the teacher twice. If left out, it is single,
    and a teacher whose own sampler draws noise is refused."""
    guidance_scale: Finite | None = None
    """The first teacher's scale of guidance. If left out, it is the one saved with it. Students
    have it built in."""
    weighting: Literal["snr_plus_one", "truncated_snr"] = "snr_plus_one"
    """The weight of an estimate's error at sigma: 1 + 1 / sigma^2, or the larger of 1 and
    1 / sigma^2."""
    mirror: bool = False
    """Flip half of the images left to right."""
    skip_bad_images: bool = False
    """Leave out images that can't be read or are too small, instead of stopping."""
    background: str | None = None
    """The colour that transparent pictures are laid on. If left out, it is the teacher's."""
    crop: Crop | None = None
    """What of a picture becomes an image: fit, square or none. If left out, it is as it was for the
    teacher."""
    grey: bool = False
    """Read pictures that have colours as grey ones, where the teacher makes grey images."""
    held_out_share: Share = HELD_OUT_SHARE
    """The share of the images that is held out where the data have no test split."""
    vae: str = ""
    """The VAE of a teacher of latents that was saved without one."""
    encoded_images: Count | None = None
    """The number of images that are encoded, spread over the data, for a teacher of latents. If
    left out, all are."""
    training: TrainingOptions = field(default_factory=Training)
    reporting: ReportingOptions = field(default_factory=Reporting)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.background is not None:
            Reading(background=self.background)
        times, left = divmod(self.teacher_steps, self.steps)
        if left or times < 2 or times & (times - 1):
            halvings = max(1, int(math.log2(max(times, 1))))
            lower, higher = self.steps << halvings, self.steps << halvings + 1
            raise ValueError(
                f"the teacher's {counted(self.teacher_steps, 'step')} can't be halved to"
                f" {self.steps}: its number is a power of two times the student's, {lower} or"
                f" {higher} for example"
            )

    @property
    def halvings(self) -> tuple[int, ...]:
        """The numbers of steps of the students, falling."""
        count = (self.teacher_steps // self.steps).bit_length() - 1
        return tuple(self.teacher_steps >> n for n in range(1, count + 1))

    @property
    def network_name(self) -> str:
        return teachers_network(self.teacher)

    def read_as(self, teacher: Reading) -> Reading:
        """How pictures are read, of which a teacher's were read in some way."""
        return replace(
            teacher,
            skip_bad=self.skip_bad_images or teacher.skip_bad,
            background=self.background or teacher.background,
            crop=self.crop or teacher.crop,
        )

    def identity(self) -> dict[str, Any]:
        """The settings that the weights depend on, the teacher's own aside."""
        names = ("solver", "weighting", "mirror")
        own = {name: value for name, value in settings.dump(self).items() if name in names}
        return own | {"training": self.training.identity()}
