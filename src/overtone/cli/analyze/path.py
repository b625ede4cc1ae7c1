"""The states that a figure looks at on the way from noise to image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from overtone.errors import OvertoneError, counted

if TYPE_CHECKING:
    from torch import Tensor

    from overtone.pipelines.pipeline import Pipeline


class Passed(NamedTuple):
    """Some states of a batch, and its labels, where the model is."""

    states: list[tuple[float, Tensor]]
    """The states as pairs (sigma, x), the start first."""
    class_labels: Tensor | None


def states_of(pipe: Pipeline, seeds: Sequence[int], model: str) -> Passed:
    """All states that the sampler passes, the start among them and the image not.

    Raises `OvertoneError` for an operator, which makes the path in one evaluation.
    """
    from overtone.pipelines.request import Request

    if pipe.sampler.is_operator:
        raise OvertoneError(
            f"{model} is an operator, which makes images in one evaluation: there are no noise"
            " levels on its way to look at."
        )
    begun = pipe.begin(Request(seeds))
    states = [(begun.sigma, begun.start)]
    states += [(step.sigma, step.x) for step in begun.steps if step.sigma]
    return Passed(states, begun.class_labels)


def spread(states: Sequence[tuple[float, Tensor]], count: int, option: str) -> list[int]:
    """The numbers of `count` of the states, from the first to the last and evenly between. Raises
    `OvertoneError` for more than there are."""
    if count > len(states):
        raise OvertoneError(
            f"{option} {count}: the sampler passes {counted(len(states), 'noise level')}, and no"
            " more can be looked at: ask for fewer, or for more steps (--sampler.num-steps)."
        )
    return [round(i * (len(states) - 1) / max(count - 1, 1)) for i in range(count)]
