"""The sampler: one loop and one step formula for every process.

With an estimate x~ of the clean image and gamma = sqrt(1 - eta^2) sigma' / sigma,

    x' = mean(x~, sigma') + gamma (x - mean(x~, sigma)) + eta sigma' noise

is EDM's Euler step where the mean is the identity and eta = 0, RDM's sampler where it is a blur.
How x~ is formed (`estimates`) decides the order; EDM's churn raises sigma before the step. An
`epsilon_scale` s makes gamma 1 - (1 - gamma) / s, which divides the noise that the network sees in
x by s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from overtone.errors import counted
from overtone.ranges import Level, LevelOrInfinity, NotNegative, Positive, Rho, Share, Steps, Weight
from overtone.samplers.estimates import (
    AVERAGED,
    FORMS,
    MULTISTEP,
    SYNONYMS,
    EstimateKind,
    History,
    triangle,
    weighted,
)
from overtone.samplers.loop import SamplingLoop, Step

if TYPE_CHECKING:
    from torch import Tensor

    from overtone.denoisers.denoiser import Denoiser, Images, Labels
    from overtone.processes.gaussian import Process
    from overtone.processes.noise import NoiseSource
    from overtone.samplers.estimates import Denoise, Form


def sigma_grid(
    num_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> tuple[float, ...]:
    """EDM's noise levels, num_steps of them and a final 0 (Karras et al. 2022, equation 5):

    sigma_i = (smax^(1/rho) + i / (N - 1) (smin^(1/rho) - smax^(1/rho)))^rho
    """
    if num_steps < 1:
        raise ValueError("a sampler takes at least one step")
    if not rho > 0:
        raise ValueError(f"rho must be above 0, not {rho}")
    if not 0 < sigma_min <= sigma_max < math.inf:
        raise ValueError(f"0 < sigma_min <= sigma_max does not hold: {sigma_min}, {sigma_max}")
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    ramp = (i / max(num_steps - 1, 1) for i in range(num_steps))
    return (*((high + r * (low - high)) ** rho for r in ramp), 0.0)


def budget_grid(
    boundaries: Sequence[float],
    steps: Sequence[int],
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> tuple[float, ...]:
    """Noise levels with a number of `steps` in each interval, without the final 0.

    Interval n, counted from the clean image, lies above `boundaries[n - 1]` and up to
    `boundaries[n]`, as experts' do; within it levels are spaced as in `sigma_grid`. Raises
    `ValueError` for an interval without a step, and where the boundaries do not lie within the
    grid.
    """
    edges = (sigma_min, *boundaries, sigma_max)
    if len(steps) != len(edges) - 1 or min(steps) < 1:
        raise ValueError(f"{len(edges) - 1} intervals take one step or more each, not {steps}")
    if any(not low < high for low, high in pairwise(edges)):
        raise ValueError(f"boundaries {tuple(boundaries)} do not rise from {sigma_min:g} to"
                         f" {sigma_max:g}")  # fmt: skip
    levels: list[float] = []
    for count, (low, high) in zip(steps, pairwise(edges), strict=True):
        if low == sigma_min:
            part = sigma_grid(count, low, high, rho)[:-1] if count > 1 else (high,)
        else:  # its lower end belongs to the interval below
            part = sigma_grid(count + 1, low, high, rho)[:-2]
        levels = [*(min(level, high) for level in part), *levels]  # rounded, one may lie above
    return tuple(levels)


@dataclass(frozen=True)
class Sampler(SamplingLoop, kind="Sampler"):
    """A solver, deterministic or stochastic. From x at sigma = s, a step to s' forms an estimate x~
    of the clean image as `estimate` says, and goes to

        x' = mean(x~, s') + gamma (x - mean(x~, s)) + eta s' noise,  gamma = sqrt(1 - eta^2) s' / s

    (relay diffusion's equation 12, arXiv 2309.03350; without blur, and with eta 0, Euler's step of
    EDM, arXiv 2206.00364). The defaults are EDM's deterministic sampler for CIFAR-10.

    A call takes the noisy start to a clean image; `path` yields every step. Raises `ValueError` for
    settings that do not fit together.

    Examples:
        >>> [round(sigma, 3) for sigma in Sampler(num_steps=5).sigmas]
        [80.0, 17.528, 2.515, 0.17, 0.002, 0.0]
        >>> Sampler(num_steps=10, estimate="dpmpp_2m").estimate
        'two_step'
    """

    num_steps: Steps = 18
    """The number of noise levels. The estimates averaged_slopes and averaged_estimates take 2
    num_steps - 1 evaluations, the others num_steps."""
    sigma_min: Level = 0.002
    """The last noise level before 0."""
    sigma_max: Level = 80.0
    """The noise level that sampling starts from."""
    rho: Rho = 7.0
    """The exponent of EDM's noise levels. Larger values crowd them towards sigma_min."""
    truncation_sigma: Level | None = None
    """Leave out noise levels from this one up, as where a second stage begins. If it is not given,
    all are kept."""
    levels: tuple[Level, ...] = ()
    """The noise levels themselves, num_steps of them, falling (`budget_grid` makes some). If they
    are not given, they follow from num_steps, sigma_min, sigma_max, rho and truncation_sigma."""
    estimate: EstimateKind = "averaged_slopes"
    """The solver, by how it forms the estimate of a step. averaged_slopes (heun) is EDM's, of
    second order, with 2 evaluations a step; single (ddim, euler) is of first order, with 1;
    two_step (dpmpp_2m) and three_step are multistep, with 1; averaged_estimates is Heun's method of
    second order under blur, with 2; weighted takes the weights in `earlier`, with 1."""
    earlier: tuple[Weight, ...] = ()
    """The weights of earlier estimates in one list, where the estimate is weighted. Step n,
    counted from 0, takes n of them, that of the latest estimate first, so that N steps take N
    (N - 1) / 2."""
    epsilon_scale: Positive = 1.0
    """Divide the noise that the network predicts by this number, against exposure bias (Ning et al.
    2023, arXiv 2308.15321). 1 leaves it as it is."""
    eta: Share = 0.0
    """The standard deviation of the noise that is drawn anew in every step, as a share of the next
    noise level, in [0, 1]. 0 makes the sampler deterministic, and 1 replaces all noise (it is not
    DDIM's eta)."""
    S_churn: NotNegative = 0.0
    """The amount of EDM's stochasticity, which adds noise before each step. 0 adds none, and is the
    only choice under a process that blurs."""
    S_min: NotNegative = 0.0
    """The lowest sigma at which S_churn adds noise."""
    S_max: LevelOrInfinity | None = None
    """The highest sigma at which S_churn adds noise. If it is not given, there is no limit."""
    S_noise: NotNegative = 1.0
    """The standard deviation of the noise that S_churn adds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "estimate", SYNONYMS.get(self.estimate, self.estimate))
        if self.estimate not in (*FORMS, "weighted"):
            known = ", ".join((*FORMS, "weighted", *SYNONYMS))
            raise ValueError(f"unknown estimate '{self.estimate}': one of {known}")
        if self.levels and len(self.levels) != self.num_steps:
            raise ValueError(
                f"the sampler has {counted(len(self.levels), 'noise level')} of its own, which"
                f" can't be made into {counted(self.num_steps, 'step')}"
            )
        if any(not low < high for high, low in pairwise((*self.levels, 0.0))):
            raise ValueError(f"the levels of a sampler fall, and stay above 0: {self.levels}")
        if len(self.sigmas) < 2:
            raise ValueError(
                f"truncation_sigma {self.truncation_sigma} leaves no level of the grid, whose"
                f" lowest is sigma_min, {self.sigma_min}"
            )
        self._check_weights()

    def _check_weights(self) -> None:
        """Raises `ValueError` for weights that are not those of this number of steps."""
        count = len(self.visited)
        wanted = count * (count - 1) // 2 if self.estimate == "weighted" else 0
        if len(self.earlier) != wanted:
            raise ValueError(
                f"{count} steps with the estimate {self.estimate} need {wanted} weights of earlier"
                f" estimates, not {len(self.earlier)}"
            )
        if self.earlier and self.S_churn:
            raise ValueError(
                "S_churn changes the noise levels that weights of earlier estimates are for: take"
                " S_churn 0"
            )

    @property
    def takes_steps(self) -> bool:
        """Unless its steps have weights of their own."""
        return not self.earlier

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels visited, down to 0."""
        grid = (*self.levels, 0.0)
        if not self.levels:
            grid = sigma_grid(self.num_steps, self.sigma_min, self.sigma_max, self.rho)
        limit = math.inf if self.truncation_sigma is None else self.truncation_sigma
        return tuple(sigma for sigma in grid if sigma < limit)

    @property
    def sigma_start(self) -> float:
        return self.sigmas[0]

    @property
    def draws_noise(self) -> bool:
        return bool(self.eta or self.S_churn)

    @property
    def untruncated(self) -> Sampler:
        """A sampler that visits the same noise levels, and leaves out none of its own. What a
        truncation leaves of EDM's grid is such a grid itself, since the levels are uniform in
        sigma^(1 / rho)."""
        if self.truncation_sigma is None:
            return self
        if self.levels:
            ends: dict[str, Any] = {"levels": self.visited}
        else:
            ends = {"sigma_max": self.sigma_start}
        return replace(self, num_steps=len(self.visited), truncation_sigma=None, **ends)

    def with_levels(self, levels: Sequence[float]) -> Sampler:
        """The same at other noise levels. Weights are for their own: `two_step` takes their place
        at others."""
        own = self if self.estimate != "weighted" else self.as_ode("two_step")
        return replace(own, num_steps=len(levels), levels=tuple(levels), truncation_sigma=None)

    def with_budget(self, boundaries: Sequence[float], steps: Sequence[int]) -> Sampler:
        ends = self.sigmas[-2], self.sigma_start
        return self.with_levels(budget_grid(boundaries, steps, *ends, self.rho))

    def below(self, sigma: float) -> Sampler:
        lower = self.visited[self._lowered(sigma) :]
        levels = lower if lower[0] == sigma else (sigma, *lower)
        # A step's churn is S_churn over the number of steps: it stays what it was.
        churn = self.S_churn * len(levels) / len(self.visited)
        return replace(self.with_levels(levels), S_churn=churn)

    @property
    def asks_ahead(self) -> bool:
        return self.estimate in AVERAGED

    @property
    def frugal(self) -> Sampler:
        """With the estimate `two_step` in the place of an averaged one: at equal evaluations it
        takes twice the steps, and under ten an averaged one is far off."""
        return self.as_ode("two_step") if self.asks_ahead and not self.draws_noise else self

    @property
    def solver(self) -> str:
        return self.estimate

    def check_process(self, process: Process) -> None:
        if self.S_churn and not process.keeps_mean:
            raise ValueError(
                "S_churn adds noise to get back to a higher noise level, and a"
                f" {process.kind} blurs as well: take S_churn 0. eta draws noise anew under any"
                " process"
            )

    def as_ode(self, estimate: EstimateKind | None = None, steps: int | None = None) -> Sampler:
        own = self if steps is None else replace(self.untruncated, num_steps=steps)
        if estimate is None:
            return own
        earlier = self.earlier if estimate == self.estimate else ()
        return replace(own, estimate=estimate, earlier=earlier, eta=0.0, S_churn=0.0)

    @property
    def rows(self) -> list[list[float]]:
        """The weights of earlier estimates at every step, the latest estimate's first. Raises
        `ValueError` for an averaged form, which has none."""
        if self.estimate not in (*MULTISTEP, "weighted"):
            raise ValueError(f"the estimate {self.estimate} has no weights of earlier estimates")
        flat = self.earlier
        if self.estimate != "weighted":
            flat = triangle(self.estimate, self.visited)
        return [list(flat[n * (n - 1) // 2 :][:n]) for n in range(len(self.visited))]

    def path(
        self,
        denoiser: Denoiser,
        process: Process,
        start: Images,
        source: NoiseSource,
        class_labels: Labels | None = None,
    ) -> Iterator[Step]:
        """Every step from noise to image; the last one's x is the result."""
        self.check_process(process)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            return denoiser(x, sigma, class_labels).x_0

        x = start
        history: History = ()
        for number, (sigma, sigma_next) in enumerate(pairwise(self.sigmas)):
            x, sigma = self.churn(process, x, sigma, source)
            x, x_0, history = self.step(denoise, process, x, sigma, sigma_next, source, history)
            yield Step(number, sigma_next, x, x_0)

    def step(
        self,
        denoise: Denoise,
        process: Process,
        x: Tensor,
        sigma: float,
        sigma_next: float,
        source: NoiseSource,
        history: History = (),
    ) -> tuple[Tensor, Tensor, History]:
        """One step from sigma to sigma_next: x', the estimate, and the history for the next."""

        def advance(x_0: Tensor) -> Tensor:
            return self.advance(process, x, x_0, sigma, sigma_next, source)

        x_0, history = self._form(denoise, advance, x, sigma, sigma_next, history)
        if sigma_next == 0 and self.epsilon_scale == 1:
            return x_0, x_0, history  # mean(x~, 0) = x~ and gamma = 0: the estimate is the image
        return advance(x_0), x_0, history

    @property
    def _form(self) -> Form:
        return weighted(self.earlier) if self.estimate == "weighted" else FORMS[self.estimate]

    def advance(
        self,
        process: Process,
        x: Tensor,
        x_0: Tensor,
        sigma: float,
        sigma_next: float,
        source: NoiseSource,
    ) -> Tensor:
        """The step from x at sigma to sigma_next, given the estimate x_0: equation 12 of relay
        diffusion (arXiv 2309.03350), which the class's docstring shows."""
        x_next = process.reverse(x, x_0, sigma, sigma_next, self.gamma(sigma, sigma_next))
        if self.eta and sigma_next:
            x_next.add_(process.noise(x, source), alpha=self.eta * sigma_next)
        return x_next

    def gamma(self, sigma: float, sigma_next: float) -> float:
        """The share of what is not the estimate's mean that a step keeps."""
        kept = math.sqrt(1 - self.eta**2) * sigma_next / sigma
        return kept if self.epsilon_scale == 1 else 1 - (1 - kept) / self.epsilon_scale

    def churn(
        self, process: Process, x: Tensor, sigma: float, source: NoiseSource
    ) -> tuple[Tensor, float]:
        """EDM's churn: raise sigma by the factor 1 + min(S_churn / N, sqrt(2) - 1), adding noise.

        With S_churn on, one draw is made at every step, used or not.
        """
        if not self.S_churn:
            return x, sigma
        noise = process.noise(x, source)
        if sigma < self.S_min or (self.S_max is not None and sigma > self.S_max):
            return x, sigma
        raised = sigma * (1 + min(self.S_churn / self.num_steps, math.sqrt(2) - 1))
        return x.add(noise, alpha=math.sqrt(raised**2 - sigma**2) * self.S_noise), raised


SECOND_STAGE = Sampler(num_steps=16, sigma_min=0.008, sigma_max=0.9, estimate="two_step")
"""The usual sampler of a relay's second stage, which begins where its first stage ends."""
