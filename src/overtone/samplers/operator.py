"""Sampling with a solution operator: one evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from overtone.processes.vp_frame import FLOW_TIME, check_levels
from overtone.ranges import LevelOrZero, Steps
from overtone.samplers.loop import SamplingLoop, Step

if TYPE_CHECKING:
    from overtone.denoisers.denoiser import Images, Labels
    from overtone.processes.gaussian import Process
    from overtone.processes.noise import NoiseSource


@dataclass(frozen=True)
class OperatorSampler(SamplingLoop, kind="OperatorSampler"):
    """DSNO's sampler: all states of a trajectory by one evaluation of a `SolutionOperator` (Zheng
    et al. 2022, arXiv 2211.13449)."""

    levels: tuple[LevelOrZero, ...] = (80.0, 0.0)
    """The falling noise levels: first that of the start, then those of the trajectory's states,
    last the image's 0."""
    num_steps: Steps = 1
    """The number of evaluations, which is one."""
    whole: bool = False
    """Return the states along the trajectory too. Without it, nothing is computed for them that the
    image does not need."""

    is_operator: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_levels(self.levels)
        if self.num_steps != 1:
            raise ValueError(
                "an operator makes images in one evaluation: it has no steps to choose"
            )

    @property
    def sigma_start(self) -> float:
        return self.levels[0]

    @property
    def draws_noise(self) -> bool:
        return False

    @property
    def visited(self) -> tuple[float, ...]:
        return self.levels[:1]

    def below(self, sigma: float) -> OperatorSampler:
        raise ValueError(
            f"an operator has learned trajectories that begin at sigma {self.sigma_start:.4g}, and"
            " no others"
        )

    def at_times(self, times: Sequence[float]) -> OperatorSampler:
        """The same, asked for the states at other t of `FLOW_TIME`, falling to 0."""
        try:
            levels = [0.0 if t == 0 else FLOW_TIME.sigma_at(t) for t in times]
            return replace(self, levels=(self.sigma_start, *levels))
        except (TypeError, ValueError) as error:
            raise ValueError(f"times {tuple(times)}: {error}") from None

    def path(
        self,
        denoiser: Any,
        process: Process,
        start: Images,
        source: NoiseSource,
        class_labels: Labels | None = None,
    ) -> Iterator[Step]:
        """The image; or every state, the image last. `denoiser` is a `SolutionOperator`."""
        first, *levels = self.levels
        states = denoiser.solve(start, first, levels, class_labels, not self.whole)
        shown = levels if self.whole else levels[-1:]
        for number, (sigma, x) in enumerate(zip(shown, states, strict=True)):
            yield Step(number, sigma, x, states[-1])
