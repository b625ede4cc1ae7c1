"""`overtone merge RUN` or `overtone merge MODEL MODEL ...` makes one pipeline of experts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from overtone.cli.options import parse
from overtone.errors import OvertoneError, counted
from overtone.ranges import Level, Steps


@dataclass(frozen=True)
class Options:
    models: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="RUN | MODEL MODEL [MODEL ...]"),
    ]
    """The directory of a run of experts, or two or more models, ordered by rising noise level."""
    boundaries: tuple[Level, ...] = ()
    """The noise levels sigma between neighbouring models, rising, one fewer than there are
    models."""
    steps: tuple[Steps, ...] = ()
    """The number of the sampler's noise levels in the interval of each expert. If it is not given,
    the sampler's own grid is kept."""
    checkpoint: str = "last"
    """The checkpoint that is taken of each run: last or best."""
    out: Path | None = None
    """The directory of the pipeline. If it is not given, it is RUN/merged, where sample and
    evaluate look."""


def main(arguments: Sequence[str]) -> None:
    options = parse(Options, "merge", __doc__, arguments)
    from overtone.pipelines.load import load_pipeline
    from overtone.pipelines.merge import merged
    from overtone.runs import MERGED_FOLDER
    from overtone.training.experts import is_run_of_experts, merged_run

    if not options.models:
        raise OvertoneError(
            "Name a run of experts, overtone merge RUN, or several models, overtone merge MODEL"
            " MODEL ... --boundaries SIGMA ..."
        )
    if options.checkpoint not in ("last", "best"):
        raise OvertoneError(f"--checkpoint is last or best, not '{options.checkpoint}'.")
    run = Path(options.models[0]).expanduser()
    if len(options.models) == 1 and is_run_of_experts(run):
        if options.boundaries:
            raise OvertoneError("--boundaries: a run of experts has its own: leave it out.")
        pipe = merged_run(run, options.checkpoint)
        out = options.out or run / MERGED_FOLDER
    else:
        if options.out is None:
            raise OvertoneError("--out: say where the pipeline of these models goes.")
        if len(options.models) < 2:
            raise OvertoneError(f"{run} is not a run of experts: name several models to merge.")
        if len(options.boundaries) != len(options.models) - 1:
            raise OvertoneError(
                f"{len(options.models)} models need {len(options.models) - 1} --boundaries,"
                f" not {len(options.boundaries)}."
            )
        models = [load_pipeline(name, checkpoint=options.checkpoint) for name in options.models]
        pipe, out = merged(models, options.boundaries), options.out
    if options.steps:
        boundaries = pipe.network.config.boundaries
        try:
            pipe.sampler = pipe.sampler.with_budget(boundaries, options.steps)
        except ValueError as error:
            raise OvertoneError(f"--steps: {error}.") from None
    pipe.save_pretrained(out)
    print(f"{counted(len(pipe.network.config.networks), 'expert')}: {out}", file=sys.stderr)
