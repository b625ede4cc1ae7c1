"""`overtone analyze eta MODEL` draws scores at several shares of new noise (eta)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from overtone.cli.analyze.opening import opened_with
from overtone.cli.analyze.sweep import Point, Sweep, check_drawn, distinct
from overtone.cli.evaluate import SEEDS, Judging, JudgingOptions
from overtone.cli.model import saved_options
from overtone.cli.options import parse
from overtone.cli.sample import Sampling
from overtone.errors import OvertoneError
from overtone.ranges import Share

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline


@dataclass(frozen=True)
class Options:
    """Draws the Fréchet distance of a model's images against eta, the share of the noise that is
    drawn anew at every step, the number of function evaluations and the seeds being the same
    (RDM's table 3)."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A saved pipeline, a run's directory, or a repository of the Hub."""
    etas: tuple[Share, ...] = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)
    """The values of eta, in [0, 1]. At 0 sampling is deterministic."""
    drawn: tuple[str, ...] = ("frechet_distance",)
    """The scores that are drawn, a panel each: frechet-distance, kernel-distance, precision,
    recall, class-accuracy and so on."""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Sampling(SEEDS)
    )
    judging: JudgingOptions = field(default_factory=Judging)
    out: Path = Path("eta.png")
    """The figure. Its data go into a .json file beside it."""


def asked(arguments: Sequence[str]) -> Options:
    """The options in the arguments."""
    sampling = Sampling(SEEDS, opening=opened_with(arguments, "analyze eta"))
    default = Options(tyro.MISSING, sampling=sampling)
    return parse(Options, "analyze eta", Options.__doc__, arguments, default=default)


def draw(options: Options) -> None:
    etas, asked = distinct(options.etas, "--etas"), options.sampling
    check_drawn(options.drawn)
    saved = getattr(saved_options([options.model]).sampler, "eta", None)
    if getattr(asked.opening.sampler, "eta", None) != saved:
        raise OvertoneError("leave out --sampler.eta: --etas has the values of this figure.")
    pipe = asked.open(options.model)
    samplers = {eta: _with_eta(pipe, eta) for eta in etas}
    from overtone.pipelines.evaluations import expected_evaluations

    calls = expected_evaluations(pipe, asked.request(pipe)).own
    points = [
        Point(
            eta,
            f"eta {eta:g}",
            asked,
            partial(_sample_by, sampler),
            {"eta": eta, "evaluations": calls},
        )
        for eta, sampler in samplers.items()
    ]
    Sweep("eta", options.model, options.judging, options.drawn, options.out).run(pipe, points)


def _with_eta(pipe: Pipeline, eta: float) -> Any:
    """The pipeline's sampler with another eta. Raises `OvertoneError` where it has none."""
    own: Any = pipe.sampler
    if not hasattr(own, "eta"):
        raise OvertoneError(
            f"the model's sampler, {own.kind or 'a scheduler'}, has no eta, the share of the noise"
            " that is drawn anew at every step: Overtone's Sampler has."
        )
    return dataclasses.replace(own, eta=eta)


def _sample_by(sampler: Any, pipe: Pipeline) -> None:
    pipe.sampler = sampler
