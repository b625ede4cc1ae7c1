"""`overtone compare MODEL MODEL ...`: models on the same seeds, beside the same real images.

The scores of each with 95 % intervals, the differences from the first model, and one picture: the
same seeds side by side, the scores, and the first score against function evaluations and against
seconds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from overtone.cli.evaluate import SEEDS, Judging
from overtone.cli.model import open_model
from overtone.cli.options import parse
from overtone.cli.sample import Sampling
from overtone.errors import OvertoneError
from overtone.launch import processes
from overtone.ranges import Count, Finite, LevelOrInfinity, LevelOrZero

if TYPE_CHECKING:
    from overtone.analysis.comparison import Comparison, Entry


@dataclass(frozen=True)
class Options:
    models: tyro.conf.Positional[tuple[str, ...]]
    """Two or more of: a saved pipeline, a run's directory, a repository of the Hub. The others are
    compared with the first."""
    seeds: str = SEEDS
    """The seeds, like 0-499 or 3,5,8-12. Each model makes one image for each."""
    classes: tuple[str, ...] = ()
    """Class names or numbers, taken in turn. If left out, seed k gets class k mod classes."""
    guidance_scale: Finite | None = None
    """The scale of classifier-free guidance of all models, 1 for none. If left out, each model
    keeps its own."""
    guidance_interval: tuple[LevelOrZero, LevelOrInfinity] | None = None
    """The lowest and the highest sigma at which guidance acts."""
    evaluations: tuple[Count, ...] = ()
    """The function evaluations that an image may take, guidance and first stages included: each
    model is compared at each of these budgets. If left out, each keeps its own settings."""
    batch_size: Count = 64
    """The number of images that are made at a time."""
    judging: Annotated[Judging, tyro.conf.arg(name="")] = field(default_factory=Judging)
    out: Path = Path("compare.png")
    """The picture. The numbers go into .json and .csv files beside it."""


def main(arguments: Sequence[str]) -> None:
    options = parse(Options, "compare", __doc__, arguments)
    if options.out.suffix.lower() != ".png":
        raise OvertoneError(f"--out is a .png file, not {options.out}.")
    if len(options.models) < 2:
        raise OvertoneError("a comparison takes two models or more: overtone compare A B.")
    found = compared(options)
    if not processes().is_main:
        return
    print(json.dumps(found.as_json()["differences"], indent=2), flush=True)
    _write(found, options.out)
    show(found)
    print(f"{options.out}: the same seeds side by side, and the scores", file=sys.stderr)


def compared(options: Options) -> Comparison:
    """The comparison that is asked for."""
    from overtone.analysis.comparison import compared_models, public_names

    sampling = Sampling(
        seeds=options.seeds,
        classes=options.classes,
        guidance_scale=options.guidance_scale,
        guidance_interval=options.guidance_interval,
        batch_size=options.batch_size,
    )
    opened = [open_model(model) for model in options.models]
    pipes = dict(zip(public_names(options.models), opened, strict=True))
    evaluation = options.judging.evaluation_of(opened[0], options.models[0], sampling)
    return compared_models(
        pipes, evaluation, sampling.request, sampling.stream, options.evaluations, _told
    )


def _told(entry: Entry) -> None:
    if processes().is_main:
        name, score = next(iter(entry.report.scores.items()))
        print(
            f"{entry.model}: {entry.evaluations:g} function evaluations, {entry.seconds:.3g} s an"
            f" image, {name.replace('_', ' ')} {score.value:.4g}",
            file=sys.stderr,
        )


def _write(found: Comparison, out: Path) -> None:
    from overtone import storage

    storage.write_json(out.with_suffix(".json"), found.as_json())
    with storage.new_file(out.with_suffix(".csv")) as file:
        found.frame().to_csv(file, index=False)
    found.draw(out)


def show(found: Comparison) -> None:
    """A table of the scores and one of the differences, on the error stream."""
    from rich.console import Console
    from rich.table import Table

    from overtone.metrics.scores import measures

    console, known = Console(stderr=True, highlight=False, soft_wrap=True), measures()
    table = Table(box=None, header_style="bold")
    names = list(dict.fromkeys(name for e in found.entries for name in e.report.scores))
    for title in ("", "function evaluations", "s an image", *(known[n].title for n in names)):
        table.add_column(title, justify="right" if title else "left")
    for entry in found.entries:
        cells = []
        for name in names:
            score = entry.report.scores.get(name)
            ends = None if score is None else score.interval
            value = "" if score is None else known[name].shown(score.value)
            cells.append(value + ("" if ends is None else f" ({_ends(known[name], ends)})"))
        table.add_row(entry.model, f"{entry.evaluations:g}", f"{entry.seconds:.3g}", *cells)
    console.print(table)
    for row in found.differences().to_dict("records"):
        measure = known[row["score"]]
        console.print(
            f"{row['model']} minus {row['against']}, {row['evaluations']:g} function evaluations:"
            f" {measure.title} {measure.shown(row['difference'])}"
            f" ({_ends(measure, (row['low'], row['high']))})",
            markup=False,
        )


def _ends(measure: object, ends: tuple[float, float]) -> str:
    return " to ".join(map(measure.shown, ends))  # type: ignore[attr-defined]
