"""The contract of samplers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from overtone import settings
from overtone.registry import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from overtone.denoisers.denoiser import Denoiser, Images, Labels
    from overtone.processes.gaussian import Process
    from overtone.processes.noise import NoiseSource
    from overtone.processes.schedule import Schedule
    from overtone.samplers.estimates import EstimateKind


class Step(NamedTuple):
    """Where a sampler stands after a step."""

    number: int  # counted from 0
    sigma: float  # the noise level of x; 0 after the last step
    x: Tensor
    x_0: Tensor  # the estimate that led here


class SamplingLoop(Kind, ABC, family="sampler", home="overtone.samplers"):
    """Contract of samplers: a start at noise level `sigma_start` -> a clean image, step by step."""

    if TYPE_CHECKING:
        num_steps: int

    is_operator: ClassVar[bool] = False
    """Whether the sampler asks a solution operator and not a denoiser."""

    @property
    @abstractmethod
    def sigma_start(self) -> float:
        """Standard deviation of the noise at the start."""

    @property
    def takes_steps(self) -> bool:
        """Whether its `step` may be taken by itself, as a `ResamplingSampler` does."""
        return False

    @property
    def draws_noise(self) -> bool:
        """Whether its steps draw noise, so that images do not follow from their starts alone."""
        return True

    def with_steps(self, steps: int) -> Self:
        """The same with another number of steps. Raises `ValueError` where it can't be."""
        try:
            return replace(self, num_steps=steps)  # type: ignore[type-var]
        except TypeError:
            raise ValueError(f"a {type(self).__name__} has no number of steps to choose") from None

    def with_levels(self, levels: Sequence[float]) -> Self:
        """The same at other noise levels, which fall; without the final 0. Raises `ValueError`
        where they can't be chosen."""
        raise ValueError(f"the noise levels of a {type(self).__name__} can't be chosen")

    def with_budget(self, boundaries: Sequence[float], steps: Sequence[int]) -> Self:
        """The same with a number of steps in each interval between rising boundaries, as experts
        have them. Raises `ValueError` where that can't be."""
        raise ValueError(f"the noise levels of a {type(self).__name__} can't be chosen")

    @property
    def asks_ahead(self) -> bool:
        """Whether a step asks the denoiser a second time, at the noise level that it leads to."""
        return False

    @property
    def frugal(self) -> SamplingLoop:
        """The same for few evaluations: with another form of the estimate, where its own takes
        several in a step."""
        return self

    @property
    def visited(self) -> tuple[float, ...]:
        """The noise levels that its steps begin at, falling. Raises `ValueError` where it does not
        say."""
        sigmas = getattr(self, "sigmas", None)
        if sigmas is None:
            raise ValueError(
                f"a {type(self).__name__} does not say which noise levels it visits: it has no"
                " `sigmas`, falling to 0"
            )
        return tuple(sigmas[:-1])

    def below(self, sigma: float) -> SamplingLoop:
        """The same from this noise level on, or from the next of its own below it. Raises
        `ValueError` where it can't begin there."""
        raise ValueError(f"a {type(self).__name__} begins at its own noise level, and at no other")

    @property
    def solver(self) -> str:
        """What the solver is called, in a word."""
        return self.kind

    def at_times(self, times: Sequence[float]) -> Self:
        """The same, asked for the states at other times. Raises `ValueError` for samplers whose
        states are those of their steps."""
        raise ValueError("`times` is for operators: the states of a solver are those of its steps")

    def as_ode(
        self, estimate: EstimateKind | None = None, steps: int | None = None
    ) -> SamplingLoop:
        """The deterministic sampler of the same noise levels, with another estimate or number of
        steps if given. Raises `ValueError` where there is none.

        A sampler can be a teacher's whose `sigmas` are the noise levels that it visits, falling to
        0, and whose `draws_noise` is False.
        """
        if estimate is None and hasattr(self, "sigmas"):
            return self if steps is None else self.with_steps(steps)
        raise ValueError(
            f"a {type(self).__name__} is not a solver of an ODE: it has no `sigmas`, the noise"
            " levels that it visits, or takes no other estimate"
        )

    def check_process(self, process: Process) -> None:
        """Raises `ValueError` for a process that it can't invert."""

    def check_schedule(self, schedule: Schedule) -> None:
        """Raises `ValueError` where it would take other steps than those of the schedule that a
        network is trained on."""

    def _lowered(self, sigma: float) -> int:
        """How many of the levels visited lie above this one. Raises `ValueError` for a level above
        all of them, and for one below."""
        levels = self.visited
        if not levels[-1] <= sigma <= levels[0]:
            raise ValueError(
                f"sigma {sigma:.4g} is not in [{levels[-1]:.4g}, {levels[0]:.4g}], the noise levels"
                " that the sampler visits"
            )
        return sum(level > sigma for level in levels)

    def facts(self) -> dict[str, Any]:
        """All that images depend on, as JSON."""
        return settings.dump(self)

    @abstractmethod
    def path(
        self,
        denoiser: Denoiser,
        process: Process,
        start: Images,
        source: NoiseSource,
        class_labels: Labels | None = None,
    ) -> Iterator[Step]:
        """Every step from noise to image; the last one's x is the result."""

    def __call__(
        self,
        denoiser: Denoiser,
        process: Process,
        start: Images,
        source: NoiseSource,
        class_labels: Labels | None = None,
    ) -> Images:
        """The clean image for a start at noise level sigma_start. Noise is drawn from `source`."""
        x = start
        for step in self.path(denoiser, process, start, source, class_labels):
            x = step.x
        return x
