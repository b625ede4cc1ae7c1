"""RePaint's way: each part of it is taken several times, and noise is added in between."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from overtone.ranges import Repeats
from overtone.samplers.loop import SamplingLoop, Step
from overtone.samplers.sampler import Sampler

if TYPE_CHECKING:
    from torch import Tensor

    from overtone.denoisers.denoiser import Denoiser, Images, Labels
    from overtone.processes.gaussian import Process
    from overtone.processes.noise import NoiseSource
    from overtone.samplers.estimates import History


@dataclass(frozen=True)
class ResamplingSampler(SamplingLoop, kind="ResamplingSampler"):
    """A sampler that takes `jump` steps, goes back to where they began, and takes them again,
    `resamples` times in all (Lugmayr et al. 2022, arXiv 2201.09865, section 4.2):

        x(sigma) = x(sigma') + sqrt(sigma^2 - sigma'^2) noise

    is the way back. By itself it changes nothing but the noise; where parts of the image are known
    it brings the others into agreement with them. An estimate of several steps (`two_step`) begins
    anew behind it. Nothing goes back over the last step. The process's mean may not depend on
    sigma.
    """

    sampler: Sampler = field(default_factory=Sampler)
    """The sampler whose steps are taken."""
    resamples: Repeats = 10
    """How many times each part of the trajectory is repeated."""
    jump: Repeats = 1
    """The number of steps in each part that is repeated."""

    @property
    def num_steps(self) -> int:  # type: ignore[override]
        return self.sampler.num_steps

    @property
    def sigma_start(self) -> float:
        return self.sampler.sigma_start

    @property
    def visited(self) -> tuple[float, ...]:
        return self.sampler.visited

    def check_process(self, process: Process) -> None:
        if not process.keeps_mean:
            raise ValueError(
                f"resampling adds noise to go back a step, and a {process.kind} blurs as well: take"
                " resamples 1, which is replacement"
            )

    def path(
        self,
        denoiser: Denoiser,
        process: Process,
        start: Images,
        source: NoiseSource,
        class_labels: Labels | None = None,
    ) -> Iterator[Step]:
        """Every step of each part's last time."""
        self.check_process(process)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            return denoiser(x, sigma, class_labels).x_0

        own, x = self.sampler, start
        carried: History = ()
        levels = own.sigmas
        for at in range(0, len(levels) - 1, self.jump):
            part = levels[at : at + self.jump + 1]
            times = self.resamples if part[-1] > 0 else 1
            for time in range(times):
                if time:
                    back = math.sqrt(part[0] ** 2 - part[-1] ** 2)
                    x = x.add(process.noise(x, source), alpha=back)
                history: History = () if time else carried
                for number, (sigma, sigma_next) in enumerate(pairwise(part)):
                    x, raised = own.churn(process, x, sigma, source)
                    x, x_0, history = own.step(
                        denoise, process, x, raised, sigma_next, source, history
                    )
                    if time == times - 1:
                        yield Step(at + number, sigma_next, x, x_0)
                carried = history
