"""`overtone train RECIPE` trains a model, from its data to a saved pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from overtone.cli.fitted import train_fitted
from overtone.cli.options import parse
from overtone.cli.running import Options, introduce, rehearse, run, train_experts
from overtone.errors import OvertoneError
from overtone.training.recipes import FITTED, RECIPES, find_recipe, name_of, run_named


def main(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        trained = (name for name in RECIPES if find_recipe(name).command == "train")
        own = list(dict.fromkeys([*trained, *FITTED]))
        print(__doc__, f"\nusage: overtone train RECIPE [options]\n\nrecipes: {', '.join(own)}")
        print(
            "\nRECIPE may also be a .json file with a recipe, or the directory of a run, which then"
            " goes on.\n`overtone train RECIPE --help` shows its options."
        )
        return
    name, *rest = arguments
    if name in FITTED:
        train_fitted(name, rest)
        return
    recipe = find_recipe(name)
    if recipe.command != "train":
        before = (
            f"overtone distill collect {name}, then " if "distill train" in recipe.command else ""
        )
        raise OvertoneError(f"{name} distils a model: {before}overtone {recipe.command} {name}.")
    about = f"{name}: {recipe.about}"
    kind: Any = Options[type(recipe)]  # type: ignore[misc]
    options = parse(kind, f"train {name}", about, rest, default=kind(recipe))
    out = options.out or run_named(name) or Path("runs") / name_of(name)
    command = ["train", *arguments]
    if options.recipe.num_experts:
        train_experts(options.recipe, out, options, command)
        return
    if options.expert is not None:
        raise OvertoneError("--expert: this recipe has one network, and no experts: leave it out.")
    from overtone.training.loop import Trainer

    tried = options.recipe.tried() if options.dry_run else options.recipe
    trainer = Trainer.of(tried, out=None if options.dry_run else out)
    introduce(trainer)
    if options.dry_run:
        rehearse(trainer)
    else:
        run(trainer, out, command, options.skip_bad_checkpoints)
