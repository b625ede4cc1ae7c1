"""`overtone compare MODEL MODEL ...` compares models on the same seeds and the same real images.

It shows the scores of each with 95 % intervals, the differences from the first model, and one
picture: the same seeds side by side, the scores, and the first score against function evaluations
and against seconds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from overtone.cli.evaluate import SEEDS, Judging, JudgingOptions
from overtone.cli.model import of_recipe, open_model
from overtone.cli.options import parse
from overtone.cli.sample import Sampling
from overtone.errors import OvertoneError
from overtone.launch import processes
from overtone.ranges import Batch, Count, Finite, LevelOrInfinity, LevelOrZero

if TYPE_CHECKING:
    from overtone.analysis.comparison import Comparison, Entry


@dataclass(frozen=True)
class Options:
    models: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL [MODEL ...]")
    ]
    """Two models or more, each a saved pipeline, a run's directory, a recipe that was trained into
    runs/, or a repository of the Hub. The others are compared with the first."""
    seeds: str = SEEDS
    """The seeds, like 0-499 or 3,5,8-12. Each model makes one image for each."""
    classes: tuple[str, ...] = ()
    """Class names or numbers, which the seeds get one after another and again from the first. If
    left out, seed k gets class k modulo the number of classes."""
    guidance_scale: Finite | None = None
    """The scale of classifier-free guidance of all models, 1 for none. If left out, each model
    keeps its own."""
    guidance_interval: tuple[LevelOrZero, LevelOrInfinity] | None = None
    """The lowest and the highest sigma at which guidance acts. If left out, each model keeps its
    own."""
    evaluations: tuple[Count, ...] = ()
    """The function evaluations that an image may take, guidance and first stages included: each
    model is compared at each of these numbers, with the sampler that overtone fit found for it, or
    else its own with as many steps as they allow. If left out, each keeps its own settings."""
    batch_size: Batch = 64
    """The number of images that are made at a time."""
    judging: JudgingOptions = field(default_factory=Judging)
    out: Path = Path("compare.png")
    """The figure, a .png file. The numbers go into .json and .csv files beside it."""


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
    models = [of_recipe(model) for model in options.models]
    opened = [open_model(model) for model in models]
    pipes = dict(zip(public_names(models), opened, strict=True))
    evaluation = options.judging.evaluation_of(opened[0], models[0], sampling)
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
    """A table for each budget, on the error stream: the scores of each model, and the differences
    from the first."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    differences = list(found.paired())
    for budget in dict.fromkeys(entry.budget for entry in found.entries):
        here = [entry for entry in found.entries if entry.budget == budget]
        console.print(_table(here, [row for row in differences if row["budget"] == budget]))


def _table(entries: list[Entry], differences: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    from overtone.metrics.scores import measures

    first, *others = entries
    table = Table(box=None, header_style="bold")
    table.add_column("")
    for entry in entries:
        table.add_column(entry.model, justify="right")
    for entry in others:
        table.add_column(f"{entry.model} minus {first.model}", justify="right")
    table.add_row("function evaluations", *(f"{entry.evaluations:g}" for entry in entries))
    table.add_row("seconds an image", *(f"{entry.seconds:.3g}" for entry in entries))
    for name in dict.fromkeys(name for entry in entries for name in entry.report.scores):
        shown = measures()[name].shown
        cells = []
        for entry in entries:
            score = entry.report.scores.get(name)
            cells.append("" if score is None else _cell(shown, score.value, score.interval))
        for entry in others:
            row = [r for r in differences if (r["model"], r["score"]) == (entry.model, name)]
            ends = (row[0]["low"], row[0]["high"]) if row else None
            cells.append(_cell(shown, row[0]["difference"], ends) if row else "")
        table.add_row(measures()[name].title, *cells)
    return table


def _cell(shown: Callable[[float], str], value: float, ends: tuple[float, float] | None) -> str:
    return shown(value) + ("" if ends is None else f" ({shown(ends[0])} to {shown(ends[1])})")
