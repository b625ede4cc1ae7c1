"""`overtone ema RUN` makes EMAs of a run's weights after training, of any length (post-hoc EMA).

    overtone ema RUN --lengths 0.02 0.05 0.1 0.2
    overtone ema RUN --lengths 0.05 0.1 --scored-images 500 --out models/averaged

The run must have kept power-function EMAs: overtone train ... --ema-lengths 0.05 0.1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from overtone.cli.options import parse
from overtone.errors import OvertoneError, plain
from overtone.ranges import Count, Length, Whole

if TYPE_CHECKING:
    from overtone.training.averaging import Averaged


@dataclass(frozen=True)
class Options:
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The directory of the run."""
    lengths: tuple[Length, ...] = (0.02, 0.05, 0.1, 0.2)
    """The lengths (sigma_rel) of the averages: the standard deviations of their profiles, as shares
    of the images seen, 0.005 to 0.288."""
    images: Count | None = None
    """The point of training at which the averages end, in images seen. If left out, it is that of
    the last checkpoint."""
    scored_images: Whole = 0
    """The number of seeds whose images are scored for each average. 0 measures the held-out loss
    alone."""
    best: str = "loss"
    """What the best average is chosen by: loss, or a number among the scores, such as
    frechet-distance."""
    out: Path | None = None
    """The directory into which the model with the best average is written."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: Sequence[str]) -> None:
    options = parse(Options, "ema", __doc__, arguments)
    if not options.lengths:
        raise OvertoneError("--lengths names one length at least.")
    from overtone.training.averaging import averaged

    found = averaged(
        options.run,
        options.lengths,
        images=options.images,
        scored_images=options.scored_images,
        best=options.best,
    )
    if options.json:
        print(json.dumps([{"average": a.name} | a.values for a in found.averages], indent=2))
    else:
        _print(found)
    if options.out is not None:
        found.save_best(options.out)
        print(plain(f"{options.out}: the average {found.best.name}"), file=sys.stderr)


def _print(found: Averaged) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    table.add_column("average")
    names = list(found.averages[0].values)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for average in found.averages:
        best = " (best)" if average is found.best else ""
        values = [average.values.get(name) for name in names]
        cells: list[Any] = ["" if value is None else f"{value:.4g}" for value in values]
        table.add_row(f"{average.name}{best}", *cells)
    Console(highlight=False).print(table)
    print(f"The best is that of the {found.order} {found.criterion.title}.")
