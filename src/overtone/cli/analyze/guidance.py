"""`overtone analyze guidance MODEL` draws scores at several guidance scales."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from overtone.cli.analyze.opening import opened_with
from overtone.cli.analyze.sweep import Point, Sweep, check_drawn, distinct
from overtone.cli.evaluate import SEEDS, Judging, JudgingOptions
from overtone.cli.options import parse
from overtone.cli.sample import Sampling
from overtone.errors import OvertoneError
from overtone.ranges import Finite


@dataclass(frozen=True)
class Options:
    """Draws the Fréchet distance of a model's images at several guidance scales, the same seeds at
    each (DiffiT's last figure)."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A saved pipeline, a run's directory, or a repository of the Hub."""
    scales: tuple[Finite, ...] = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
    """The guidance scales. At 1 there is no guidance."""
    drawn: tuple[str, ...] = ("frechet_distance",)
    """The scores that are drawn, a panel each: frechet-distance, kernel-distance, precision,
    recall, class-accuracy and so on."""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Sampling(SEEDS)
    )
    judging: JudgingOptions = field(default_factory=Judging)
    out: Path = Path("guidance.png")
    """The figure. Its data go into a .json file beside it."""


def asked(arguments: Sequence[str]) -> Options:
    """The options in the arguments."""
    sampling = Sampling(SEEDS, opening=opened_with(arguments, "analyze guidance"))
    default = Options(tyro.MISSING, sampling=sampling)
    return parse(Options, "analyze guidance", Options.__doc__, arguments, default=default)


def draw(options: Options) -> None:
    scales, asked = distinct(options.scales, "--scales"), options.sampling
    if asked.guidance_scale is not None:
        raise OvertoneError("leave out --guidance-scale: --scales has the scales of this figure.")
    check_drawn(options.drawn)
    pipe = asked.open(options.model)
    if asked.guide is None:
        pipe.guided(dataclasses.replace(pipe.guidance, scale=max(scales)))
    points = [
        Point(
            scale,
            f"guidance {scale:g}",
            dataclasses.replace(
                asked, guidance_scale=scale, guide=asked.guide if scale != 1.0 else None
            ),
        )
        for scale in scales
    ]
    sweep = Sweep("guidance scale", options.model, options.judging, options.drawn, options.out)
    sweep.run(pipe, points)
