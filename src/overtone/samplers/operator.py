"""Sampling with a solution operator: one evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from overtone.denoisers.denoiser import Images, Labels
from overtone.processes import NoiseSource, Process, check_levels
from overtone.samplers.sampler import SamplingLoop, Step


@dataclass(frozen=True)
class OperatorSampler(SamplingLoop):
    """DSNO's: all states of a trajectory by one evaluation of a `SolutionOperator`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    levels: tuple[float, ...] = (80.0, 0.0)
    """noise levels, falling: the start's, then those of the states, the image's 0 the last"""
    num_steps: int = 1
    """evaluations, of which there is one"""
    whole: bool = False
    """return the states on the way as well; else nothing is computed for them that the image does
    not need"""
    kind: Literal["OperatorSampler"] = "OperatorSampler"

    def __post_init__(self) -> None:
        check_levels(self.levels)
        if self.num_steps != 1:
            raise ValueError(
                "an operator makes images in one evaluation: it has no steps to choose"
            )

    @property
    def sigma_start(self) -> float:
        return self.levels[0]

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
