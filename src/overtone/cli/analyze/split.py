"""`overtone analyze split MODEL` draws scores by how two stages share function evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro

from overtone.cli.analyze.opening import opened_with
from overtone.cli.analyze.sweep import Point, Sweep, check_drawn, distinct
from overtone.cli.evaluate import SEEDS, Judging, JudgingOptions
from overtone.cli.options import parse
from overtone.cli.sample import Sampling
from overtone.errors import OvertoneError
from overtone.ranges import Share

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline
    from overtone.pipelines.request import Request

TOTAL, MOST = 48, 2000
"""function evaluations of both stages by default, and at most"""


@dataclass(frozen=True)
class Options:
    """Draws the Fréchet distance of a relay's images against the split of a fixed number of
    function evaluations between its first and its second stage (RDM's figure 5). The number is per
    image, guidance included. Each split takes --evaluations, or the next lower number that whole
    steps of both samplers add up to."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The second stage of a relay, saved with its first: a pipeline, a run's directory, or a
    repository of the Hub."""
    shares: tuple[Share, ...] = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
    """The shares of the evaluations that go to the first stage, in [0, 1]. Whole steps are
    taken, whose number comes nearest to the share, one or more in each stage."""
    drawn: tuple[str, ...] = ("frechet_distance",)
    """The scores that are drawn, a panel each: frechet-distance, kernel-distance, precision,
    recall, class-accuracy and so on."""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Sampling(SEEDS, evaluations=TOTAL)
    )
    judging: JudgingOptions = field(default_factory=Judging)
    out: Path = Path("split.png")
    """The figure. Its data go into a .json file beside it."""


class Split(NamedTuple):
    """The steps of both stages, and the function evaluations that they take."""

    first_steps: int
    second_steps: int
    first_calls: int
    second_calls: int

    @property
    def share(self) -> float:
        """The first stage's share of the calls."""
        return self.first_calls / (self.first_calls + self.second_calls)


Cost = Callable[[int], int | None]
"""a number of steps -> function evaluations; None for fewer steps than there can be"""


def asked(arguments: Sequence[str]) -> Options:
    """The options in the arguments."""
    opening = opened_with(arguments, "analyze split")
    sampling = Sampling(SEEDS, evaluations=TOTAL, opening=opening)
    default = Options(tyro.MISSING, sampling=sampling)
    return parse(Options, "analyze split", Options.__doc__, arguments, default=default)


def draw(options: Options) -> None:
    from overtone.pipelines.request import Request

    shares, total = distinct(options.shares, "--shares"), options.sampling.evaluations or TOTAL
    asked = dataclasses.replace(options.sampling, evaluations=None)
    check_drawn(options.drawn)
    if not 2 <= total <= MOST:
        raise OvertoneError(f"--evaluations must be from 2 to {MOST:,}, not {total}.")
    if asked.steps is not None or asked.opening.first_stage.steps is not None:
        raise OvertoneError(
            "leave out --steps and --first-stage.steps: this figure chooses the steps of both"
            " stages."
        )
    pipe = asked.open(options.model)
    first = pipe.start.pipeline
    if first is None:
        raise OvertoneError(
            f"{options.model} has no first stage that is a model: this figure divides the"
            " evaluations of a relay, whose first stage is saved with it or is --first MODEL."
        )
    costs = _cost(first, Request([0])), _cost(pipe, asked.request(pipe))
    splits = splits_of(total, shares, *costs)
    points = [
        Point(
            split.share,
            f"{split.first_calls} + {split.second_calls} evaluations",
            dataclasses.replace(asked, steps=split.second_steps),
            partial(_take, split.first_steps),
            split._asdict(),
        )
        for split in splits
    ]
    name = f"first stage's share of {total} evaluations"
    Sweep(name, options.model, options.judging, options.drawn, options.out).run(pipe, points)


def splits_of(total: int, shares: Sequence[float], first: Cost, second: Cost) -> list[Split]:
    """For each share the split of `total` calls that comes nearest to it, without repetitions.

    The first stage takes the steps whose calls are nearest to its share, and the second as many as
    are left for. Raises `OvertoneError` where there are fewer than two splits.
    """
    found: dict[Split, None] = {}
    for share in shares:
        below = most_steps(first, share * total)
        near = [steps for steps in (below, (below or 0) + 1) if steps and first(steps) is not None]
        for steps in sorted(near, key=lambda s: abs((first(s) or 0) - share * total)):
            calls = first(steps) or 0
            rest = most_steps(second, total - calls)
            if rest is not None:
                found[Split(steps, rest, calls, second(rest) or 0)] = None
                break
    if len(found) < 2:
        raise OvertoneError(
            f"--evaluations {total} can't be split in two ways by these --shares: each stage takes"
            " whole steps, one or more."
        )
    return sorted(found, key=lambda split: split.first_calls)


def most_steps(cost: Cost, calls: float) -> int | None:
    """The largest number of steps that cost no more than so many calls; None if one is too many.
    More steps cost more calls."""
    low, high = 0, int(calls)
    while low < high:
        middle = (low + high + 1) // 2
        if (cost(middle) or 0) <= calls:
            low = middle
        else:
            high = middle - 1
    return low if low and cost(low) is not None else None


def _cost(pipe: Pipeline, request: Request) -> Cost:
    """What steps cost, where a pipeline is asked so. Raises `OvertoneError` for a sampler without
    steps to choose."""
    from overtone.pipelines.evaluations import expected_evaluations

    try:
        pipe.sampler.with_steps(pipe.sampler.num_steps)
    except (AttributeError, ValueError) as error:
        raise OvertoneError(f"the evaluations of this relay can't be split: {error}.") from None

    @cache
    def cost(steps: int) -> int | None:
        try:
            asked = dataclasses.replace(request, steps=steps)
            return round(expected_evaluations(pipe, asked).own)
        except OvertoneError:
            return None

    return cost


def _take(steps: int, pipe: Pipeline) -> None:
    """Let the first stage take so many steps."""
    first = pipe.start.pipeline
    assert first is not None
    first.sampler = first.sampler.with_steps(steps)
