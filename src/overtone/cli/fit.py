"""`overtone fit MODEL` fits samplers of few function evaluations to a model.

    overtone fit MODEL --evaluations 4 6 8 12
    overtone sample MODEL --evaluations 8

For each number of evaluations, the noise levels and the weights of earlier estimates are searched
that bring images nearest to those of many steps. What is better than the model's own sampler on
other seeds is saved with the model. An interrupted fit goes on where it was when the command is
given again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from overtone.cli.evaluate import Judging, JudgingOptions
from overtone.cli.model import ModelOptions, check_first, saved_options
from overtone.cli.options import parse
from overtone.cli.sample import Sampling
from overtone.errors import OvertoneError, plain
from overtone.solving.settings import FitSettings, GuidanceSearch

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline
    from overtone.solving.fit import Outcome


@dataclass(frozen=True)
class Options:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A saved pipeline, a run's directory, a pipeline of diffusers', or a repository of the Hub."""
    fit: Annotated[FitSettings, tyro.conf.arg(name="")] = field(default_factory=FitSettings)
    opening: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    guidance: bool = False
    """Search the guidance first, at the largest of --evaluations: its scale, its interval of noise
    levels, and its scale for high frequencies. The guidance of the lowest Fréchet distance is saved
    with the model only if it is better than the model's own on other seeds, by more than the 95 %
    interval of the difference. The samplers are then fitted under it."""
    search: GuidanceSearch = field(default_factory=GuidanceSearch)
    """How guidance is searched."""
    judging: JudgingOptions = field(default_factory=Judging)
    out: Path | None = None
    """The directory that the model is saved into with its samplers. If left out, they are written
    into the model's own directory, which has to be a saved pipeline."""
    json: bool = False
    """Print JSON instead of lines."""


def main(arguments: Sequence[str]) -> None:
    check_first(arguments, "fit")
    default = Options(tyro.MISSING, opening=saved_options(arguments))
    options = parse(Options, "fit", __doc__, arguments, default=default)
    folder = options.out or _own_folder(options.model)
    from overtone.networks.network import digest_of
    from overtone.pipelines.card import tell_fitted
    from overtone.pipelines.index import is_pipeline, read_index, write_budgets
    from overtone.progress import Display
    from overtone.solving.fit import check_fit, fit_samplers, replaced, work_of

    pipe = options.opening.open(options.model)
    check_fit(pipe, options.fit)
    if options.out is not None:
        if is_pipeline(options.out):  # what was fitted before an interrupt
            weights = digest_of(pipe.network)
            for budget in read_index(options.out).budgets:
                if budget.own.weights == weights:
                    pipe.budgets = replaced(pipe.budgets, budget)
        pipe.save_pretrained(options.out)
    if options.guidance:
        _guide(pipe, options, folder)
    outcomes: list[Outcome] = []

    def kept(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if outcome.budget is not None:
            write_budgets(folder, pipe.budgets)
            tell_fitted(folder, pipe.budgets)
        display.say(str(outcome))

    total = work_of(pipe, options.fit)
    with Display(total, what="evaluations", unit="evaluations") as display:
        fit_samplers(pipe, options.fit, told=display.more, kept=kept)
    if options.json:
        print(json.dumps([_told(outcome) for outcome in outcomes], indent=2))
    if not any(outcome.budget for outcome in outcomes):
        raise OvertoneError(
            "no sampler was better than the model's own, and none was saved: try more --trials,"
            " more --iterations or other --evaluations."
        )
    print(plain(f"{folder}: {_saved(pipe)}"), file=sys.stderr)


def _guide(pipe: Pipeline, options: Options, folder: Path) -> None:
    """Search guidance, and save what is better than the model's own."""
    from overtone.pipelines.index import write_guidance
    from overtone.solving.guidance import Trial, fitted_guidance

    asked = options.fit.guidance_scale, options.fit.guidance_interval
    if (*asked, options.fit.guidance_high_scale) != (None, None, None):
        raise OvertoneError(
            "--guidance searches the guidance itself: leave out --guidance-scale,"
            " --guidance-interval and --guidance-high-scale."
        )
    count = options.search.images
    sampling = Sampling(f"0-{count - 1}")
    evaluation = options.judging.evaluation_of(pipe, options.model, sampling)

    def told(trial: Trial) -> None:
        print(plain(str(trial)), file=sys.stderr)

    evaluations = max(options.fit.evaluations)
    outcome = fitted_guidance(pipe, evaluation, evaluations, options.search, told=told)
    print(plain(str(outcome)), file=sys.stderr)
    if outcome.kept:
        pipe.guidance = outcome.found.guidance
        write_guidance(folder, pipe.guidance)


def _own_folder(model: str) -> Path:
    """The directory that a model's samplers are written into. Raises `OvertoneError` where there is
    none of one's own."""
    from overtone.pipelines.index import is_pipeline

    folder = Path(model).expanduser()
    if not is_pipeline(folder):
        raise OvertoneError(
            f"{model} is not a saved pipeline, which the samplers could be written into: name a"
            " directory for the model with its samplers, --out DIRECTORY."
        )
    return folder


def _told(outcome: Outcome) -> dict[str, Any]:
    return {
        "evaluations": outcome.evaluations,
        "kept": outcome.budget is not None,
        "error": outcome.error,
        "default_error": outcome.default_error,
    }


def _saved(pipe: Pipeline) -> str:
    counts = ", ".join(str(n) for n in sorted({b.asked for b in pipe.budgets}))
    return f"samplers for {counts} function evaluations: overtone sample ... --evaluations N"
