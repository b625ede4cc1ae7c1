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

USED_MOST = (
    "The options that are used most are --out, --data, --total-images, --batch-size, --lr and"
    " --dry-run."
)


def main(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        trained = (name for name in RECIPES if find_recipe(name).command == "train")
        own = list(dict.fromkeys([*trained, *FITTED]))
        print(__doc__, f"\nusage: overtone train RECIPE [options]\n\nrecipes: {', '.join(own)}")
        print(
            "\n`overtone recipes` tells what each recipe makes. RECIPE may also be a .json file"
            "\nwith a recipe, FILE.py:NAME, or the directory of a run, which is then resumed."
            "\n\n    overtone train diffit-digits --out runs/digits"
            "\n    overtone train images --data ~/pictures"
            "\n\n`overtone train RECIPE --help` shows the options of a recipe."
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
    about = f"{name}: {recipe.about}\n\n{USED_MOST}"
    kind: Any = Options[type(recipe)]  # type: ignore[misc]
    options = parse(kind, f"train {name}", about, rest, default=kind(recipe))
    out = options.out or run_named(name) or Path("runs") / name_of(name)
    command = ["train", *arguments]
    if options.recipe.num_experts:
        train_experts(options.recipe, out, options, command)
        return
    if options.expert is not None:
        raise OvertoneError(
            "--expert: this recipe trains one network and has no experts: leave it out."
        )
    from overtone.training.loop import Trainer

    tried = options.recipe.tried() if options.dry_run else options.recipe
    trainer = Trainer.of(tried, out=None if options.dry_run else out)
    introduce(trainer)
    if options.dry_run:
        rehearse(trainer)
    else:
        run(trainer, out, command, options.skip_bad_checkpoints)
