"""`overtone distill` makes a model that needs fewer function evaluations than its teacher.

overtone distill collect RECIPE    solves the teacher's trajectories and keeps them
overtone distill train RECIPE      trains an operator on them, which needs one evaluation (DSNO)
overtone distill halve RECIPE      halves the steps again and again (progressive distillation)

Recipes of operators (dsno-...) take collect, and then train. Recipes of progressive distillation
(halve-...) take halve. `overtone distill collect RECIPE --help` shows the options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from overtone.cli.options import has_help, parse
from overtone.cli.running import goes_on, introduce, rehearse, run
from overtone.errors import OvertoneError, RunInterruptedError, counted, unknown
from overtone.launch import processes
from overtone.runs import whole_of
from overtone.training.configs.distillation import DistillationRecipe
from overtone.training.configs.halving import HalvingRecipe
from overtone.training.recipes import RECIPES, find_recipe, name_of, run_named

WHAT = ("collect", "train", "halve")


@dataclass(frozen=True)
class CollectOptions:
    recipe: Annotated[DistillationRecipe, tyro.conf.arg(name="")]
    out: Path | None = None
    """The directory of the trajectories. If left out, it is runs/RECIPE-trajectories."""
    part: str = "1/1"
    """K/N makes the K-th of N parts, so that N jobs on separate machines share the work."""
    repair: bool = False
    """Read all that is there, and make damaged files again."""


@dataclass(frozen=True)
class TrainOptions:
    recipe: Annotated[DistillationRecipe, tyro.conf.arg(name="")]
    data: Path | None = None
    """The directory of the trajectories. If left out, it is runs/RECIPE-trajectories."""
    out: Path | None = None
    """The directory of the run. If left out, it is runs/RECIPE, or, where RECIPE is the directory
    of a run, that directory."""
    skip_bad_checkpoints: bool = False
    """Go on from the newest undamaged checkpoint where a newer one is damaged."""
    dry_run: bool = False
    """Build everything, train a few steps, and say how long the run would take. No run is made."""


@dataclass(frozen=True)
class HalveOptions:
    recipe: Annotated[HalvingRecipe, tyro.conf.arg(name="")]
    out: Path | None = None
    """The directory of the run, which holds a run for each number of steps (steps-8, steps-4, ...).
    If left out, it is runs/RECIPE, or, where RECIPE is the directory of a run, that directory."""
    skip_bad_checkpoints: bool = False
    """Go on from the newest undamaged checkpoint where a newer one is damaged."""
    dry_run: bool = False
    """Build everything, train a few steps of the first student, and say how long each would take.
    No run is made."""


def main(arguments: Sequence[str]) -> None:
    helped = has_help(arguments[:2])
    if len(arguments) < 2 or helped:
        known = [name for name in RECIPES if find_recipe(name).command != "train"]
        print(
            f"{__doc__}\nrecipes: {', '.join(known)}, a .json file with one, FILE.py:NAME, or the"
            " directory of a run"
        )
        if arguments and not helped:
            _check(arguments[0])
            raise OvertoneError(f"Name a recipe: overtone distill {arguments[0]} RECIPE.")
        return
    what, name, *rest = arguments
    _check(what)
    recipe: Any = find_recipe(name)
    if recipe.command == "train":
        raise OvertoneError(f"{name} is not a recipe of distillation: use overtone train {name}.")
    if (recipe.command == "distill halve") != (what == "halve"):
        raise OvertoneError(
            f"{name} can't be used with distill {what}: use overtone {recipe.command} {name}."
        )
    about, stem = f"{name}: {recipe.about}", name_of(name)
    own = run_named(name)
    if own is not None and (whole := whole_of(own)) != own:
        raise OvertoneError(
            f"{own} is the run of one of several students. Resume all of them: overtone distill"
            f" halve {whole}."
        )
    run_folder = own or Path("runs") / stem
    if what == "halve":
        default = HalveOptions(recipe)
        halve = parse(HalveOptions, f"distill halve {name}", about, rest, default=default)
        _halve(halve, halve.out or run_folder, arguments)
        return
    trajectories = run_folder.with_name(f"{run_folder.name}-trajectories")
    if what == "collect":
        defaults = CollectOptions(recipe)
        options = parse(CollectOptions, f"distill collect {name}", about, rest, default=defaults)
        _collect(options, options.out or trajectories)
        return
    asked = parse(TrainOptions, f"distill train {name}", about, rest, default=TrainOptions(recipe))
    _train(asked, asked.data or trajectories, asked.out or run_folder, name, arguments)


def _check(what: str) -> None:
    if what not in WHAT:
        raise unknown("subcommand of distill", what, WHAT)


def _collect(options: CollectOptions, out: Path) -> None:
    from overtone.training.collect import collect
    from overtone.training.train import teacher_for

    number, _, count = options.part.partition("/")
    if not number.isdecimal() or not count.isdecimal():
        raise OvertoneError(f"--part is like 1/8, not '{options.part}'.")
    teacher = teacher_for(options.recipe)
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
    from overtone.training.loop import Trainer
    from overtone.training.train import teacher_for

    recipe = options.recipe
    if recipe.online and options.data is not None:
        raise OvertoneError(
            "--data names trajectories, and with --online they are solved in training."
        )
    if not recipe.online and not data.is_dir():
        raise OvertoneError(
            f"there are no trajectories in {data}: overtone distill collect {name} makes them, or"
            " pass --online."
        )
    where = None if options.dry_run else out
    trainer = Trainer.of(recipe, out=where, teacher=teacher_for(recipe), folder=data)
    introduce(trainer)
    if options.dry_run:
        rehearse(trainer)
    else:
        run(trainer, out, ["distill", *arguments], options.skip_bad_checkpoints)


def _halve(options: HalveOptions, out: Path, arguments: Sequence[str]) -> None:
    from overtone.runs import find_checkpoint, halving_folder
    from overtone.training.halving import first_teacher, material_for, train_halvings
    from overtone.training.loop import Trainer

    recipe = options.recipe
    if options.dry_run:
        teacher = first_teacher(recipe)
        trainer = Trainer.of(
            recipe,
            teacher=teacher,
            steps=recipe.halvings[0],
            material=material_for(recipe, teacher),
        )
        introduce(trainer)
        rehearse(trainer, f"each of {len(recipe.halvings)} students")
        return
    try:
        train_halvings(recipe, out, introduce, skip_bad=options.skip_bad_checkpoints)
    except RunInterruptedError as error:
        raise goes_on(error, ["distill", *arguments]) from None
    if not processes().is_main:
        return
    for steps in recipe.halvings:
        print(f"{counted(steps, 'step')}: {find_checkpoint(halving_folder(out, steps))}")
