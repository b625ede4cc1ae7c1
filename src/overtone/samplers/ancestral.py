"""DDPM's sampler: every step drawn from the reverse process."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from overtone.denoisers.denoiser import Denoiser, Images, Labels
from overtone.processes import DiscreteSchedule, NoiseSource, Process
from overtone.processes.posterior import ReverseSteps, log_variance
from overtone.samplers.sampler import SamplingLoop, Step


@dataclass(frozen=True)
class AncestralSampler(SamplingLoop):
    """DDPM's sampler on some of the noise levels of a discrete schedule (Ho et al. 2020, arXiv
    2006.11239; respaced as in Improved DDPM, arXiv 2102.09672).

        x' = D + r (x - D) + sqrt(p) noise,   r = sigma'^2 / sigma^2

    with the variance p that the network learned, or sigma'^2 (1 - r) if it learned none. The last
    step returns its estimate. Levels are evenly spread over the schedule's steps, both ends kept.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    num_steps: int = 250
    """steps taken, of those of the schedule"""
    schedule: DiscreteSchedule = field(default_factory=DiscreteSchedule)
    """the noise levels that the network was trained with"""
    kind: Literal["AncestralSampler"] = "AncestralSampler"

    def __post_init__(self) -> None:
        if not 0 < self.num_steps <= len(self.schedule.levels):
            raise ValueError(
                f"num_steps {self.num_steps} is not in [1, {len(self.schedule.levels)}], the steps"
                " of its schedule"
            )

    @cached_property
    def levels(self) -> Tensor:
        """The noise levels visited, increasing, float64."""
        last = len(self.schedule.levels) - 1
        if self.num_steps == 1:
            return self.schedule.levels[-1:]
        return self.schedule.levels[torch.linspace(0, last, self.num_steps).round().long()]

    @property
    def sigma_start(self) -> float:
        """Standard deviation of the start: alpha x has unit variance there."""
        return math.sqrt(1 + float(self.levels[-1]) ** 2)

    def path(
        self,
        denoiser: Denoiser,
        process: Process,
        start: Images,
        source: NoiseSource,
        class_labels: Labels | None = None,
    ) -> Iterator[Step]:
        """Every step from noise to image; the last one's x is the result."""
        if type(process).__name__ != "GaussianProcess":
            raise ValueError("DDPM's sampler knows only white noise, no blur")
        levels, steps = self.levels.tolist(), ReverseSteps(self.levels)
        x = start
        for number, i in enumerate(reversed(range(len(levels)))):
            x_0, v = denoiser(x, levels[i], class_labels)
            if i == 0:
                yield Step(number, 0.0, x_0, x_0)
                return
            noise, lower = process.noise(x, source), float(steps.log_lower[i])
            mean = torch.lerp(x_0, x, float(steps.ratio[i]))
            if v is None:
                x = mean.add(noise, alpha=math.exp(lower / 2))
            else:
                x = mean + (log_variance(v, lower, float(steps.log_upper[i])) / 2).exp() * noise
            yield Step(number, levels[i - 1], x, x_0)
