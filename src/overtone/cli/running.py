"""What the commands that train have in common: options, words before a training, a dry run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import tyro

from overtone.errors import RunInterruptedError, counted, plain
from overtone.launch import processes
from overtone.ranges import Count
from overtone.registry import IMPORTED
from overtone.training.configs.recipe import Recipe

if TYPE_CHECKING:
    from overtone.training.configs.denoising import DenoisingRecipe
    from overtone.training.loop import Trainer

R = TypeVar("R", bound=Recipe)


@dataclass(frozen=True)
class Options(Generic[R]):
    recipe: Annotated[R, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]
    out: Path | None = None
    """The directory of the run. If left out, it is runs/RECIPE, or, where RECIPE is the directory
    of a run, that directory."""
    dry_run: bool = False
    """Build everything, train a few steps, and say how long the run would take. No run is made."""
    expert: Count | None = None
    """Train only this expert. Expert 1 is the one nearest the clean image. If left out, all experts
    are trained, one after another, or spread over the processes of a launcher."""
    skip_bad_checkpoints: bool = False
    """Go on from the newest undamaged checkpoint where a newer one is damaged."""


def introduce(trainer: Trainer, name: str = "") -> None:
    """Say what is trained, where, and on how much data."""
    task, among = trainer.task, trainer.processes
    if not among.is_main:
        return
    millions = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    count = "any number of" if task.data.endless else f"{len(task.data):,}"
    where = f"{among.count} processes on {trainer.device.type}"
    told = (
        f"{name + ': ' if name else ''}{task.name}, {millions:.2f} M parameters, on"
        f" {trainer.device if among.count == 1 else where}; {count} {task.of}"
    )
    print(plain(told), file=sys.stderr)
    held_out = f"no {task.what} are held out"
    if task.held_out is not None:
        held_out = f"{counted(len(task.held_out), task.one, task.what)} held out"
    order = "lowest" if trainer.criterion.lower_is_better else "highest"
    best = f"the best checkpoint is that of the {order} {trainer.criterion.title}"
    print(f"{held_out}; {best}", file=sys.stderr)


def rehearse(trainer: Trainer, name: str = "dry run") -> None:
    """A dry run, and how long the whole would take."""
    from overtone.training.rehearsal import rehearse as rehearsed

    found, what, whole = rehearsed(trainer), trainer.task.what, trainer.training.batch_size
    if trainer.processes.is_main:
        where = "of the GPU's memory" if trainer.device.type == "cuda" else "of memory"
        print(
            f"{name}: {_shown(found.images_per_second)} {what}/s,"
            f" {found.hours:.2f} hours for {trainer.training.total_images:,} {what}."
        )
        print(f"{name}: {found.memory / 2**30:.2f} GiB {where} at the peak.")
        if found.tried < whole:
            print(
                f"{name}: estimated from {found.tried:,} of the {whole:,} {what} of a batch, for"
                " which more memory is needed; --micro-batch limits it."
            )


def _shown(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def run(trainer: Trainer, out: Path, command: Sequence[str], skip_bad: bool) -> None:
    """Train to the end and say where the result is; `command` goes on after an interruption."""
    from overtone.runs import best_told, find_checkpoint

    try:
        progress = trainer.run(out, skip_bad=skip_bad)
    except RunInterruptedError as error:
        raise goes_on(error, command) from None
    if trainer.processes.is_main:
        seen = f"{progress.images:,} {trainer.task.what} in {progress.seconds:,.0f} s"
        print(plain(f"{seen}: {find_checkpoint(out)}"))
        if best := best_told(out):
            print(plain(f"The best checkpoint is {best}; --checkpoint best opens it."))


def goes_on(error: RunInterruptedError, command: Sequence[str]) -> RunInterruptedError:
    imports = [f"--import={name}" for name in IMPORTED]
    return RunInterruptedError(error, shlex.join(["overtone", *command, *imports]))


def train_experts(
    recipe: DenoisingRecipe, out: Path, options: Options[Any], command: Sequence[str]
) -> None:
    from overtone.runs import MERGED_FOLDER
    from overtone.training.experts import shared_material, train_and_merge
    from overtone.training.loop import Trainer

    count = recipe.num_experts
    if options.dry_run:
        recipe = recipe.tried()
        material, every = shared_material(recipe), range(1, count + 1)
        for number in processes().share(every) if options.expert is None else [options.expert]:
            rehearse(Trainer.of(recipe, number, material=material), f"expert {number}")
        return
    try:
        missing = train_and_merge(
            recipe, out, options.expert, introduce, skip_bad=options.skip_bad_checkpoints
        )
    except RunInterruptedError as error:
        raise goes_on(error, command) from None
    if not processes().is_main:
        return
    if missing:
        print(f"{out}: expert {options.expert} is trained; to come: {missing}")
    else:
        print(f"{counted(count, 'expert')}: {out / MERGED_FOLDER}")
