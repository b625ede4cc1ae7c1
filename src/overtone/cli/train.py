"""`overtone train RECIPE`: train a model from its data to a saved pipeline."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from overtone.cli.options import parse
from overtone.errors import OvertoneError, RunInterruptedError
from overtone.launch import processes
from overtone.training.distill import Distillation
from overtone.training.loop import Trainer
from overtone.training.recipe import Recipe, trainer_of
from overtone.training.recipes import RECIPES, find_recipe
from overtone.training.rundir import MERGED_FOLDER, find_checkpoint
from overtone.training.vae import VAERecipe

R = TypeVar("R", Recipe, VAERecipe)


@dataclass(frozen=True)
class Options(Generic[R]):
    recipe: Annotated[R, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]
    out: Path | None = None
    """directory of the run; runs/RECIPE if left out"""
    expert: int | None = None
    """of a recipe of experts, train this one, counted from the clean image; all, one after another
    or one a process, if left out"""
    dry_run: bool = False
    """build everything, train three steps, say how long the run would take; no run is made"""


def _data(recipe: Recipe | VAERecipe, known: int) -> str:
    if isinstance(recipe, VAERecipe):
        classes = "for a VAE"
    elif recipe.class_conditional:
        classes = f"{known} classes"
    else:
        classes = f"its {known} classes not used (--class-conditional)" if known else "no classes"
    return f"images of {recipe.data}, {classes}"


def introduce(trainer: Trainer, data: str, name: str = "") -> None:
    """Say what is trained, where, and on how much of `data`."""
    millions = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    count = "any number of" if trainer.data.endless else f"{len(trainer.data):,}"
    among = trainer.processes
    where = f"{among.count} processes on {trainer.device.type}"
    kind = type(getattr(trainer.model, "network", trainer.model)).__name__
    if among.is_main:
        print(
            f"{name + ': ' if name else ''}{kind}, {millions:.2f} M parameters, on"
            f" {trainer.device if among.count == 1 else where}; {count} {data}",
            file=sys.stderr,
        )


def rehearse(trainer: Trainer, name: str = "dry run", what: str = "images") -> None:
    """A dry run, and how long the whole would take."""
    rehearsal = trainer.rehearse()
    if trainer.processes.is_main:
        print(
            f"{name}: {rehearsal['images_per_second']:,.0f} {what}/s,"
            f" {rehearsal['hours']:.2f} hours for {trainer.training.total_images:,} {what}."
        )


def _train_experts(recipe: Recipe, out: Path, options: Options[Any], command: str) -> None:
    from overtone.training.experts import (
        latest_of_experts,
        merged_run,
        shared_material,
        train_experts,
    )

    experts = recipe.experts
    assert experts is not None
    if options.dry_run:
        material, every = shared_material(recipe), range(1, experts.count + 1)
        for number in processes().share(every) if options.expert is None else [options.expert]:
            trainer = trainer_of(recipe, expert=number, material=material)
            rehearse(trainer, f"expert {number}")
        return
    before = latest_of_experts(out, experts.count)
    try:
        trained = train_experts(
            recipe,
            out,
            options.expert,
            lambda t, name: introduce(t, _data(recipe, t.data.num_classes), name),
        )
    except RunInterruptedError as error:
        raise RunInterruptedError(f"{error}\n  {command}") from None
    if not processes().is_main:
        return
    if len(trained) < experts.count:
        missing = [n for n in range(1, experts.count + 1) if n not in trained]
        print(f"{out}: expert {options.expert} is trained; to come: {missing}")
        return
    folder = out / MERGED_FOLDER
    # What was merged by hand stays, but for experts that have gone on since.
    if not folder.is_dir() or latest_of_experts(out, experts.count) != before:
        merged_run(out).save_pretrained(folder)
    print(f"{experts.count} experts: {folder}")


def main(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        own = [name for name, make in RECIPES.items() if not isinstance(make(), Distillation)]
        print(__doc__, f"\nusage: overtone train RECIPE [options]\n\nrecipes: {', '.join(own)}")
        print("or the path of a .json file with a recipe.   overtone train RECIPE --help")
        return
    name, *rest = arguments
    recipe = find_recipe(name)
    if isinstance(recipe, Distillation):
        raise OvertoneError(
            f"{name} distils a model: overtone distill collect {name}, then overtone distill train"
            f" {name}."
        )
    about = f"{name}: {recipe.about}"
    kind: Any = Options[type(recipe)]  # type: ignore[misc]
    options = parse(kind, f"train {name}", about, rest, default=kind(recipe))
    out = options.out or Path("runs") / Path(name).stem
    if isinstance(options.recipe, Recipe) and options.recipe.experts is not None:
        _train_experts(options.recipe, out, options, shlex.join(["overtone", "train", *arguments]))
        return
    if options.expert is not None:
        raise OvertoneError("--expert: this recipe has one network, and no experts.")
    trainer = trainer_of(options.recipe)
    introduce(trainer, _data(options.recipe, trainer.data.num_classes))
    if options.dry_run:
        rehearse(trainer)
        return
    try:
        progress = trainer.run(out)
    except RunInterruptedError as error:
        command = shlex.join(["overtone", "train", *arguments])
        raise RunInterruptedError(f"{error}\n  {command}") from None
    if trainer.processes.is_main:
        print(f"{progress.images:,} images in {progress.seconds:,.0f} s: {find_checkpoint(out)}")
