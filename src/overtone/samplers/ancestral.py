"""DDPM's sampler: every step drawn from the reverse process."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from overtone.processes.discrete import DiscreteSchedule, evenly
from overtone.processes.schedule import Schedule
from overtone.ranges import Positive, Steps
from overtone.samplers.loop import SamplingLoop, Step
from overtone.samplers.sampler import Sampler

if TYPE_CHECKING:
    from torch import Tensor

    from overtone.denoisers.denoiser import Denoiser, Images, Labels
    from overtone.processes.gaussian import Process
    from overtone.processes.noise import NoiseSource
    from overtone.samplers.estimates import EstimateKind


@dataclass(frozen=True)
class AncestralSampler(SamplingLoop, kind="AncestralSampler"):
    """DDPM's sampler on some of the noise levels of a discrete schedule (Ho et al. 2020, arXiv
    2006.11239; respaced as in Improved DDPM, arXiv 2102.09672).

        x' = D + r (x - D) + sqrt(p) noise,   r = sigma'^2 / sigma^2

    with the variance p that the network learned, or sigma'^2 (1 - r) if it learned none. The last
    step returns its estimate. Levels are evenly spread over the schedule's steps, both ends kept.
    """

    num_steps: Steps = 250
    """The number of steps to take among those of the schedule."""
    schedule: DiscreteSchedule = field(default_factory=DiscreteSchedule)
    """The discrete schedule that the network was trained with."""
    truncation_sigma: Positive | None = None
    """Leave out noise levels from this one up. If it is not given, all are kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not getattr(self.schedule, "discrete", False):
            raise ValueError(f"schedule must be a DiscreteSchedule, not {self.schedule!r:.80}")
        if not 0 < self.num_steps <= len(self.schedule.sigmas):
            raise ValueError(
                f"num_steps {self.num_steps} is not in [1, {len(self.schedule.sigmas)}], the steps"
                " of its schedule"
            )
        if not self.sigmas:
            raise ValueError(
                f"truncation_sigma {self.truncation_sigma} leaves no noise level: the lowest is"
                f" {self.schedule.sigmas[0]:.4g}"
            )

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels visited, increasing."""
        own = self.schedule.sigmas
        limit = math.inf if self.truncation_sigma is None else self.truncation_sigma
        places = [len(own) - 1.0]
        if self.num_steps > 1:
            places = evenly(0.0, len(own) - 1.0, self.num_steps)
        return tuple(own[round(at)] for at in places if own[round(at)] < limit)

    @property
    def visited(self) -> tuple[float, ...]:
        return self.sigmas[::-1]

    def below(self, sigma: float) -> AncestralSampler:
        number = self._lowered(sigma)
        return replace(self, truncation_sigma=self.visited[number - 1]) if number else self

    @cached_property
    def levels(self) -> Tensor:
        """`sigmas`, float64."""
        import torch

        return torch.tensor(self.sigmas, dtype=torch.float64)

    @property
    def sigma_start(self) -> float:
        """Standard deviation of the start: alpha x has unit variance there."""
        return math.sqrt(1 + self.sigmas[-1] ** 2)

    def as_ode(self, estimate: EstimateKind | None = None, steps: int | None = None) -> Sampler:
        if estimate is None:
            raise ValueError("DDPM's sampler draws noise at each step: choose heun, ddim, dpmpp_2m")
        low, count = self.schedule.sigmas[0], 18 if steps is None else steps
        return Sampler(count, sigma_min=low, sigma_max=self.sigma_start, estimate=estimate)

    def check_process(self, process: Process) -> None:
        if not process.is_gaussian:
            raise ValueError("DDPM's sampler knows only white noise, no blur")

    def check_schedule(self, schedule: Schedule) -> None:
        if self.schedule != schedule:
            raise ValueError(
                "--schedule and --sampler.schedule differ: DDPM's sampler takes the steps that the"
                " network is trained on"
            )

    def path(
        self,
        denoiser: Denoiser,
        process: Process,
        start: Images,
        source: NoiseSource,
        class_labels: Labels | None = None,
    ) -> Iterator[Step]:
        """Every step from noise to image; the last one's x is the result."""
        from overtone.processes.posterior import ReverseSteps, log_variance

        self.check_process(process)
        levels, steps = self.sigmas, ReverseSteps(self.levels)
        x = start
        for number, i in enumerate(reversed(range(len(levels)))):
            x_0, v = denoiser(x, levels[i], class_labels)
            if i == 0:
                yield Step(number, 0.0, x_0, x_0)
                return
            noise, lower = process.noise(x, source), float(steps.log_lower[i])
            mean = x_0.lerp(x, float(steps.ratio[i]))
            if v is None:
                x = mean.add(noise, alpha=math.exp(lower / 2))
            else:
                x = mean + (log_variance(v, lower, float(steps.log_upper[i])) / 2).exp() * noise
            yield Step(number, levels[i - 1], x, x_0)
