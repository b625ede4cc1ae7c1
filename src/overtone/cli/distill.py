"""`overtone distill`: a model made an operator, which needs one evaluation (DSNO).

overtone distill collect RECIPE    solve the teacher's trajectories, and keep them
overtone distill train RECIPE      train the operator on them
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from overtone.cli.options import parse
from overtone.cli.train import introduce, rehearse
from overtone.errors import OvertoneError, RunInterruptedError, unknown
from overtone.launch import processes
from overtone.training.collect import collect
from overtone.training.distill import Distillation, distiller_of
from overtone.training.recipes import RECIPES, find_recipe
from overtone.training.rundir import find_checkpoint
from overtone.training.teacher import Teacher, open_teacher

WHAT = ("collect", "train")


@dataclass(frozen=True)
class CollectOptions:
    recipe: Annotated[Distillation, tyro.conf.arg(name="")]
    out: Path | None = None
    """directory of the trajectories; runs/RECIPE-trajectories if left out"""
    part: str = "1/1"
    """K/N: the K-th of N jobs, on machines that know nothing of each other, that share the work"""
    repair: bool = False
    """read what is there through, and make files that are damaged again"""


@dataclass(frozen=True)
class TrainOptions:
    recipe: Annotated[Distillation, tyro.conf.arg(name="")]
    data: Path | None = None
    """directory of the trajectories; runs/RECIPE-trajectories if left out"""
    out: Path | None = None
    """directory of the run; runs/RECIPE if left out"""
    dry_run: bool = False
    """build everything, train three steps, say how long the run would take; no run is made"""


def main(arguments: Sequence[str]) -> None:
    known = [name for name, make in RECIPES.items() if isinstance(make(), Distillation)]
    helped = {"-h", "--help"} & set(arguments[:2])
    if len(arguments) < 2 or helped:
        print(f"{__doc__}\nrecipes: {', '.join(known)}, or the path of a .json file with one")
        if arguments and not helped:
            _check(arguments[0])
            raise OvertoneError(f"overtone distill {arguments[0]} RECIPE: say which.")
        return
    what, name, *rest = arguments
    _check(what)
    recipe = find_recipe(name)
    if not isinstance(recipe, Distillation):
        raise OvertoneError(f"{name} distils nothing: overtone train {name}.")
    about, stem = f"{name}: {recipe.about}", Path(name).stem
    trajectories = Path("runs") / f"{stem}-trajectories"
    if what == "collect":
        defaults = CollectOptions(recipe)
        options = parse(CollectOptions, f"distill collect {name}", about, rest, default=defaults)
        _collect(options, options.out or trajectories)
        return
    asked = parse(TrainOptions, f"distill train {name}", about, rest, default=TrainOptions(recipe))
    _train(asked, asked.data or trajectories, asked.out or Path("runs") / stem, name, arguments)


def _check(what: str) -> None:
    if what not in WHAT:
        raise unknown("subcommand of distill", what, WHAT)


def _teacher(recipe: Distillation) -> Teacher:
    processes()  # which gives each its own device, where there are several
    if not recipe.teacher:
        raise OvertoneError("this recipe has no teacher of its own: pass --teacher MODEL.")
    return open_teacher(
        recipe.teacher,
        recipe.solver,
        recipe.steps,
        recipe.guidance_scale,
        first=recipe.first,
        vae=recipe.vae,
        precision=recipe.training.precision,
    )


def _collect(options: CollectOptions, out: Path) -> None:
    number, _, count = options.part.partition("/")
    if not number.isdecimal() or not count.isdecimal():
        raise OvertoneError(f"--part is like 1/8, not '{options.part}'.")
    teacher = _teacher(options.recipe)
    part = int(number), int(count)
    data = collect(options.recipe, teacher, out, part=part, repair=options.repair)
    if not processes().is_main:
        return
    if data is None:
        print(f"{out}: part {options.part} is done; others are missing")
        return
    levels = ", ".join(f"{sigma:.3g}" for sigma in data.index.sigmas)
    print(f"{out}: {len(data):,} trajectories of {teacher.name} at sigma {levels}")


def _train(
    options: TrainOptions, data: Path, out: Path, name: str, arguments: Sequence[str]
) -> None:
    recipe = options.recipe
    if not recipe.online and not data.is_dir():
        raise OvertoneError(
            f"there are no trajectories in {data}: overtone distill collect {name} makes them, or"
            " pass --online."
        )
    teacher = _teacher(recipe)
    trainer = distiller_of(recipe, teacher, data)
    introduce(trainer, f"trajectories of {teacher.name}")
    if options.dry_run:
        rehearse(trainer, what="trajectories")
        return
    try:
        progress = trainer.run(out)
    except RunInterruptedError as error:
        command = shlex.join(["overtone", "distill", *arguments])
        raise RunInterruptedError(f"{error}\n  {command}") from None
    if trainer.processes.is_main:
        seen = f"{progress.images:,} trajectories in {progress.seconds:,.0f} s"
        print(f"{seen}: {find_checkpoint(out)}")
