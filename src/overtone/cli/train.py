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
from overtone.errors import RunInterruptedError
from overtone.training.recipe import Recipe, trainer_of
from overtone.training.recipes import RECIPES, find_recipe
from overtone.training.rundir import find_checkpoint
from overtone.training.vae import VAERecipe

R = TypeVar("R", Recipe, VAERecipe)


@dataclass(frozen=True)
class Options(Generic[R]):
    recipe: Annotated[R, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]
    out: Path | None = None
    """directory of the run; runs/RECIPE if left out"""
    dry_run: bool = False
    """build everything, train three steps, say how long the run would take; no run is made"""


def _classes(recipe: Recipe | VAERecipe, known: int) -> str:
    if isinstance(recipe, VAERecipe):
        return "for a VAE"
    if recipe.class_conditional:
        return f"{known} classes"
    return f"its {known} classes not used (--class-conditional)" if known else "no classes"


def main(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__, f"\nusage: overtone train RECIPE [options]\n\nrecipes: {', '.join(RECIPES)}")
        print("or the path of a .json file with a recipe.   overtone train RECIPE --help")
        return
    name, *rest = arguments
    recipe = find_recipe(name)
    about = f"{name}: {recipe.about}"
    kind: Any = Options[type(recipe)]  # type: ignore[misc]
    options = parse(kind, f"train {name}", about, rest, default=kind(recipe))
    out = options.out or Path("runs") / Path(name).stem
    trainer = trainer_of(options.recipe)
    millions = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    count = "any number of" if trainer.data.endless else f"{len(trainer.data):,}"
    among = trainer.processes
    where = f"{among.count} processes on {trainer.device.type}"
    if among.is_main:
        print(
            f"{options.recipe.network.kind}, {millions:.2f} M parameters, on"
            f" {trainer.device if among.count == 1 else where}; {count} images of"
            f" {options.recipe.data}, {_classes(options.recipe, trainer.data.num_classes)}",
            file=sys.stderr,
        )
    if options.dry_run:
        rehearsal = trainer.rehearse()
        if among.is_main:
            print(
                f"dry run: {rehearsal['images_per_second']:,.0f} images/s,"
                f" {rehearsal['hours']:.2f} hours for {trainer.training.total_images:,} images."
            )
        return
    try:
        progress = trainer.run(out)
    except RunInterruptedError as error:
        command = shlex.join(["overtone", "train", *arguments])
        raise RunInterruptedError(f"{error}\n  {command}") from None
    if among.is_main:
        print(f"{progress.images:,} images in {progress.seconds:,.0f} s: {find_checkpoint(out)}")
