"""Recipes of distillations into an operator (DSNO)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import tyro

from overtone import settings
from overtone.networks.configs.network import NetworkConfig
from overtone.processes.vp_frame import Spacing, spaced
from overtone.ranges import Count, Finite, Seed, Size, Steps, Time, Whole
from overtone.training.configs.recipe import Recipe
from overtone.training.configs.training import Reporting, Training

Solver = Literal[
    "own",
    "heun",
    "ddim",
    "dpmpp_2m",
    "euler",
    "single",
    "averaged_slopes",
    "averaged_estimates",
    "two_step",
]
"""A model's own sampler, or the form of the estimate (`EstimateKind`) of a deterministic one on its
noise levels."""


@dataclass(frozen=True)
class DistillationRecipe(Recipe, kind="distillation"):
    """Everything that decides what a distillation makes."""

    makes: ClassVar[str] = "overtone.training.distill:DistillationTask"
    trains: ClassVar[str] = "overtone.training.train:distill"
    command: ClassVar[str] = "distill train"

    about: Annotated[str, tyro.conf.Suppress]
    """what it is for, and what it needs"""
    teacher: str = ""
    """the model to distil: a saved pipeline, a run's directory, a repository of the Hub, or a
    diffusers pipeline of a U-Net or DiT"""
    init: str = ""
    """The model whose weights the student begins with, where they fit: an operator, or a model of
    the teacher's kind. If left out, they are the teacher's, or random for a network of its own."""
    count: Count = 20_000
    """trajectories to collect; of more than these, training takes the first"""
    held_out: Whole = 256
    """trajectories beside, to measure on"""
    first_seed: Seed = 1_000_000
    """trajectory k is that of seed first_seed + k; small seeds are left for looking at samples"""
    num_times: Steps = 4
    """states of a trajectory that are learned, the image the last"""
    spacing: Spacing = "quad"
    """of their times: quad crowds them towards the image"""
    times: tuple[Time, ...] = ()
    """the times themselves, t in [0, 1] of the log-SNR cosine schedule, falling to 0, instead of
    the above"""
    solver: Solver = "own"
    """the teacher's: its own sampler, or one of its noise levels with another estimate: heun, ddim,
    dpmpp_2m, ..."""
    steps: Steps | None = None
    """noise levels of the solver; the teacher's own number, if left out"""
    guidance_scale: Finite | None = None
    """of the teacher; the scale saved with it, if left out"""
    dtype: Literal["float16", "float32"] = "float16"
    """of the states on the disk"""
    online: bool = False
    """solve each trajectory when it is trained on, and keep none: no disk, slower, never the same
    twice"""
    network: Annotated[NetworkConfig | None, tyro.conf.Suppress] = None
    """The student's network, trained from random weights: an operator's, or any other, which gets
    temporal layers. If left out, the student has the teacher's network and weights, those of the
    expert that sampling begins with if the teacher is several."""
    modes: Size | None = None
    """frequencies over time that the temporal layers keep, the constant one included; 2, or those
    of the student's own `network`, if left out"""
    weighting: Literal["snr", "uniform"] = "snr"
    """of the times in the loss: snr is alpha / sigma, in [1, 10000]"""
    distance: Literal["l1", "lpips"] = "l1"
    """between states; lpips needs the extra of that name"""
    first: str = ""
    """of a relay's second stage, the first one that trajectories go on from, and that is saved with
    the student: an operator, say; the teacher's, if left out"""
    vae: str = ""
    """what decodes the latents of a teacher that was saved without a VAE"""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    reporting: Annotated[Reporting, tyro.conf.arg(name="")] = field(default_factory=Reporting)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first_seed < self.held_out:
            raise ValueError("held_out seeds are those before first_seed: it has to be larger")
        falls = all(a > b for a, b in zip(self.times, self.times[1:], strict=False))
        if self.times and (not falls or self.times[-1] != 0 or self.times[0] >= 1):
            raise ValueError(f"times fall from below 1 to 0, and are not {self.times}")
        wanted = len(self.times) or self.num_times
        if self.steps is not None and self.steps < wanted:  # before a teacher is trained
            raise ValueError(
                f"{self.steps} steps of the solver can't give {wanted} times: take more steps, or"
                " fewer times"
            )

    @property
    def network_name(self) -> str:
        return f"of {self.teacher}" if self.network is None else self.network.kind

    def times_from(self, start: float) -> tuple[float, ...]:
        """The times of the states, of trajectories that begin at time `start`."""
        return self.times or spaced(self.num_times, self.spacing, start)

    def identity(self) -> dict[str, Any]:
        """The settings that the weights depend on, the trajectories' own aside."""
        names = ("network", "modes", "weighting", "distance")
        own = {name: value for name, value in settings.dump(self).items() if name in names}
        return own | {"training": self.training.identity()}
