"""Recipes of distillations into an operator (DSNO)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import tyro

from overtone import settings
from overtone.networks.configs.network import NetworkConfig
from overtone.processes.vp_frame import Spacing, spaced
from overtone.ranges import Count, Finite, Seed, Size, Steps, Time, Whole
from overtone.training.configs.recipe import Recipe, teachers_network
from overtone.training.configs.training import (
    Reporting,
    ReportingOptions,
    Training,
    TrainingOptions,
)

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
    """What the recipe is for, and what it needs."""
    teacher: str = ""
    """The model to distil: a saved pipeline, a run's directory, a repository of the Hub, or a
    diffusers pipeline of a U-Net or DiT."""
    init: str = ""
    """The model whose weights the student begins with, where they fit: an operator, or a model of
    the teacher's kind. If left out, they are the teacher's, or random for a network of its own."""
    count: Count = 20_000
    """The number of trajectories to collect. If there are more, training takes the first."""
    held_out: Whole = 256
    """The number of further trajectories that the held-out loss is measured on."""
    first_seed: Seed = 1_000_000
    """The seed of the first trajectory; trajectory k has first_seed + k. Small seeds are left for
    looking at samples."""
    num_times: Steps = 4
    """The number of states of a trajectory that are learned. The image is the last."""
    spacing: Spacing = "quad"
    """How the times of the states are spaced: evenly (uniform), or crowded towards the image
    (quad)."""
    times: tuple[Time, ...] = ()
    """The times of the states, instead of --num-times and --spacing: falling values t of the
    log-SNR cosine schedule. Each is at least 0 and below 1, and the last is 0."""
    solver: Solver = "own"
    """The solver of the teacher's trajectories: its own sampler (own), or another estimate at its
    noise levels, such as heun, ddim or dpmpp_2m."""
    steps: Steps | None = None
    """The number of noise levels that the solver takes. If it is not given, it is the teacher's
    own."""
    guidance_scale: Finite | None = None
    """The teacher's guidance scale. If it is not given, it is the scale saved with the teacher."""
    dtype: Literal["float16", "float32"] = "float16"
    """The data type of the states on the disk."""
    online: bool = False
    """Solve each trajectory when it is trained on, and keep none. This needs no disk, is slower,
    and never gives the same trajectory twice."""
    network: Annotated[NetworkConfig | None, tyro.conf.Suppress] = None
    """The student's network, trained from random weights: an operator's, or any other, which gets
    temporal layers. If left out, the student has the teacher's network and weights, those of the
    expert that sampling begins with if the teacher is several."""
    modes: Size | None = None
    """The number of frequencies over time that the temporal layers keep, the constant one included.
    If it is not given, it is 2, or that of the student's own `network`."""
    weighting: Literal["snr", "uniform"] = "snr"
    """The weight of each time in the loss: alpha / sigma, limited to [1, 10000] (snr), or 1
    (uniform)."""
    distance: Literal["l1", "lpips"] = "l1"
    """The distance between states: the absolute difference (l1), or LPIPS, which needs the extra of
    that name (lpips)."""
    first: str = ""
    """The first stage that a relay's second-stage trajectories go on from, such as an operator. It
    is saved with the student. If it is not given, it is the teacher's."""
    vae: str = ""
    """The VAE that decodes the latents of a teacher which was saved without one."""
    training: TrainingOptions = field(default_factory=Training)
    reporting: ReportingOptions = field(default_factory=Reporting)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first_seed < self.held_out:
            raise ValueError(
                "first_seed must be at least held_out, whose trajectories have the seeds before it"
            )
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
        return teachers_network(self.teacher) if self.network is None else self.network.kind

    def times_from(self, start: float) -> tuple[float, ...]:
        """The times of the states, of trajectories that begin at time `start`."""
        return self.times or spaced(self.num_times, self.spacing, start)

    def identity(self) -> dict[str, Any]:
        """The settings that the weights depend on, the trajectories' own aside."""
        names = ("network", "modes", "weighting", "distance")
        own = {name: value for name, value in settings.dump(self).items() if name in names}
        return own | {"training": self.training.identity()}
