"""`overtone card MODEL` writes a model to be handed on, with a card that people can judge it by.

    overtone evaluate runs/images --seeds 0-499 --out scores.json
    overtone card runs/images --license cc-by-4.0 --scores scores.json --out models/mine

The directory holds the model, a grid of its images, and a card with its licence, its scores and how
it was made. `hf upload YOU/NAME models/mine` publishes it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from overtone import storage
from overtone.cli.model import check_first, saved_options
from overtone.cli.options import parse
from overtone.cli.sample import GRID_LIMIT, Sampling, sampled_grid, usual_seeds
from overtone.errors import OvertoneError, plain
from overtone.launch import processes
from overtone.pipelines.seeds import seeds_of

if TYPE_CHECKING:
    from overtone.metrics.scores import Measure
    from overtone.pipelines.card import CardScore
    from overtone.pipelines.pipeline import Pipeline


@dataclass(frozen=True)
class Options:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A saved pipeline, a run's directory, or a repository of the Hub."""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")]
    license: str | None = None
    """The licence of the weights, by the Hub's identifier: apache-2.0, cc-by-4.0, other, ... If
    left out, it is the one that the model was saved with, if any."""
    scores: tuple[Path, ...] = ()
    """Reports of this model that overtone evaluate --out has written, whose scores the card
    shows."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """The data type of the saved weights. float16 and bfloat16 halve the files. Where they round
    the weights, the scores and the fitted samplers of the float32 model no longer apply."""
    out: Path = Path("model")
    """The directory that is written."""


def main(arguments: Sequence[str]) -> None:
    check_first(arguments, "card")
    default = Options(tyro.MISSING, Sampling(opening=saved_options(arguments)))
    options = parse(Options, "card", __doc__, arguments, default=default)
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise OvertoneError(f"{options.out} is there already: choose another --out.")
    if processes().count > 1:
        raise OvertoneError("one process writes a card: start the command without a launcher.")
    from overtone.pipelines.card import Card, check_license

    license = check_license(options.license or "")
    pipe = options.sampling.open(options.model)
    pipe.license = license or pipe.license
    pipe.round_to(options.dtype)  # so that scores and samples are those of what is saved
    scores = [score for file in options.scores for score in _scores(file, pipe)]
    asked = options.sampling
    seeds = asked.seeds or usual_seeds(len(asked.classes) or pipe.num_classes)
    if len(seeds_of(seeds)) > GRID_LIMIT:
        raise OvertoneError(f"a card shows {GRID_LIMIT:,} images at most: name fewer --seeds.")
    sampling = replace(asked, seeds=seeds)
    samples = sampled_grid(sampling, pipe, options.model)
    pipe.save_pretrained(options.out, options.dtype, Card(scores, samples))
    if not pipe.license:
        print("the card names no licence: state one by --license", file=sys.stderr)
    print(plain(f"{options.out}: `hf upload YOU/NAME {options.out}` publishes it"), file=sys.stderr)


def _scores(file: Path, pipe: Pipeline) -> list[CardScore]:
    """The scores in a report. Raises `OvertoneError` for one of another model."""
    from overtone.metrics.scores import measures
    from overtone.networks.network import digest_of
    from overtone.pipelines.card import CardScore

    report = storage.read_json(file, dict)
    made = report.get("made_with")
    if not isinstance(made, dict) or "weights" not in made:
        raise OvertoneError(
            f"{file} is not a report of a model that `overtone evaluate` has written."
        )
    if made["weights"] != digest_of(pipe.network):
        raise OvertoneError(
            f"{file} is the report of other weights than those of this model: evaluate it again."
        )
    measured = _measured(report)
    return [
        CardScore(name, measure.title, report[name], _shown(measure, report), measured)
        for name, measure in measures().items()
        if _is_number(report.get(name))
    ]


def _shown(measure: Measure, report: dict[str, Any]) -> str:
    """A score with its interval."""
    text = measure.shown(report[measure.name])
    intervals = report.get("intervals")
    ends = intervals.get(measure.name) if isinstance(intervals, dict) else None
    if not isinstance(ends, list) or len(ends) != 2 or not all(map(_is_number, ends)):
        return text
    return f"{text} (95 %: {measure.shown(ends[0])} to {measure.shown(ends[1])})"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _measured(report: dict[str, Any]) -> str:
    """The number of images, what they were compared with, by which features, and how made."""
    made = report["made_with"]
    guidance = made.get("guidance")
    scale = guidance.get("scale") if isinstance(guidance, dict) else None
    of = f" of {report['real']}" if report.get("real") else ""
    parts = [
        _counted(report.get("images"), "images"),
        _counted(report.get("real_images"), f"real images{of}"),
        f"features of {report['extractor']}" if report.get("extractor") else "",
        _counted(made.get("evaluations"), "evaluations per image"),
        f"guidance scale {scale}" if scale not in (None, 1.0) else "",
    ]
    return ", ".join(part for part in parts if part)


def _counted(count: Any, what: str) -> str:
    if not _is_number(count):
        return ""
    return f"{count:,.6g} {what}" if isinstance(count, float) else f"{count:,} {what}"
