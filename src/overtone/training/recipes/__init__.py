"""Recipes by name: tables of numbers, one file a system."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path

from overtone import former, settings, storage
from overtone.errors import OvertoneError, unknown
from overtone.registry import IMPORTED, import_module, said
from overtone.runs import RECIPE_FILE, is_run
from overtone.training.configs.recipe import Recipe

RECIPES = {
    "diffit-digits": "diffit",
    "adm-digits": "diffit",
    "flow-digits": "flow",
    "diffit-fashion-mnist": "diffit",
    "diffit-cifar10": "diffit",
    "ddpmpp-cifar10": "diffit",
    "ncsnpp-cifar10": "diffit",
    "diffit-ffhq64": "diffit",
    "meme-digits": "meme",
    "meme-fashion-mnist": "meme",
    "meme-celeba64": "meme",
    "meme-ffhq": "meme",
    "meme-celebahq": "meme",
    "relay-glyphs-16": "relay",
    "relay-glyphs": "relay",
    "relay-glyphs-256": "relay",
    "relay-celebahq-64": "relay",
    "relay-celebahq": "relay",
    "relay-imagenet-64": "relay",
    "relay-imagenet": "relay",
    "dsno-digits": "dsno",
    "dsno-fashion-mnist": "dsno",
    "dsno-glyphs-16": "dsno",
    "dsno-glyphs": "dsno",
    "dsno-cifar10": "dsno",
    "dsno-imagenet64": "dsno",
    "halve-digits": "halving",
    "halve-fashion-mnist": "halving",
    "halve-glyphs": "halving",
    "halve-images": "halving",
    "vae-glyphs": "latent",
    "diffit-latent-glyphs": "latent",
    "diffit-latent-b2": "latent",
    "diffit-latent-imagenet256": "latent",
    "diffit-latent-imagenet512": "latent",
    "images": "images",
    "latent-images": "images",
    "relay-images": "images",
    "meme-images": "images",
    "dsno-images": "images",
}
"""The file of each recipe, which is a function there of the same name."""

PARAMETERS = {
    "diffit-digits": 0.96,
    "adm-digits": 1.95,
    "flow-digits": 0.96,
    "diffit-fashion-mnist": 1.68,
    "diffit-cifar10": 48.73,
    "ddpmpp-cifar10": 55.73,
    "ncsnpp-cifar10": 56.40,
    "diffit-ffhq64": 69.53,
    "meme-digits": 1.61,
    "meme-fashion-mnist": 3.15,
    "meme-celeba64": 24.01,
    "meme-ffhq": 84.42,
    "meme-celebahq": 84.42,
    "relay-glyphs-16": 1.86,
    "relay-glyphs": 2.41,
    "relay-glyphs-256": 2.48,
    "relay-celebahq-64": 295.13,
    "relay-celebahq": 552.81,
    "relay-imagenet-64": 295.13,
    "relay-imagenet": 552.81,
    "vae-glyphs": 0.92,
    "diffit-latent-glyphs": 6.05,
    "diffit-latent-b2": 107.24,
    "diffit-latent-imagenet256": 559.88,
    "diffit-latent-imagenet512": 561.23,
    "images": 3.34,
    "latent-images": 6.10,
    "relay-images": 3.34,
    "meme-images": 4.47,
}
"""Millions of parameters of each recipe's network, unconditional, so that a list of recipes needs
neither torch nor the networks. A test compares them with the networks."""
FITTED = ("images", "latent-images", "relay-images", "meme-images", "dsno-images")
"""Recipes whose settings follow from one's own images (`training.fitting`); what they are here is
what they are for images of a usual size."""


def find_recipe(name: str) -> Recipe:
    """A recipe by name, from a JSON file, from the directory of a run, or, as FILE.py:NAME, from a
    file of one's own, which is executed. Raises `OvertoneError` where there is none.

    Examples:
        >>> from dataclasses import replace
        >>> recipe = find_recipe("diffit-digits")
        >>> recipe.network.widths
        (64, 64)
        >>> wider = replace(recipe, network=replace(recipe.network, widths=(64, 128)))
    """
    file, _, own = name.rpartition(":")
    if file.endswith(".py"):
        return _recipe_in(file, own)
    if name.endswith(".py"):
        raise OvertoneError(f"{name} may hold several recipes: say which, {name}:NAME.")
    run = run_named(name)
    path = Path(name).expanduser() if run is None else run / RECIPE_FILE
    if path.suffix == ".json":
        read = former.recipe if run is None else former.run_recipe
        return settings.load(Recipe, read(storage.read_json(path, dict)), str(path))
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    module = importlib.import_module(f"overtone.training.recipes.{RECIPES[name]}")
    return getattr(module, name.replace("-", "_"))()


def run_named(name: str) -> Path | None:
    """The run that is named by its directory, or by the recipe.json in it; None for any other
    name. A recipe's own name is not taken for a directory."""
    path = Path(name).expanduser()
    folder = path.parent if path.name == RECIPE_FILE else path
    return folder if name not in RECIPES and is_run(folder) else None


def command_of(run: Path) -> str:
    """The command that resumes a run: `train`, or that of its recipe's own kind."""
    try:
        return find_recipe(str(run)).command
    except OvertoneError:  # of a kind that is not imported here
        return "train"


def command_with_weights(run: Path, total_images: int) -> str:
    """The command that begins a longer run with the weights of a run; "" for a recipe that begins
    with other weights, as a student with its teacher's."""
    place, file = shlex.quote(str(run)), run / RECIPE_FILE
    if not file.exists() or "init" not in storage.read_json(file, dict):
        return ""
    return (
        f"overtone {command_of(run)} {place} --init {place} --total-images {total_images}"
        f" --out {place}-longer"
    )


def name_of(name: str) -> str:
    """A recipe's own name, after which its run is called."""
    file, _, own = name.rpartition(":")
    return own if file.endswith(".py") else Path(name).stem


def _recipe_in(file: str, name: str) -> Recipe:
    """The recipe, or what the function of that name returns, of a file that is executed."""
    if file not in IMPORTED and Path(file).expanduser().is_file():
        print(f"executing {file}", file=sys.stderr)
    module = import_module(file)
    found = getattr(module, name, None)
    if callable(found) and not isinstance(found, type):
        try:
            found = found()
        except (Exception, SystemExit) as error:  # whatever a foreign function raises
            raise OvertoneError(f"{file}: {name}() fails: {said(error)}.") from error
    if not isinstance(found, Recipe):
        known = [n for n, value in vars(module).items() if isinstance(value, Recipe)]
        there = f" It has: {', '.join(known)}." if known else ""
        raise OvertoneError(
            f"{file} has no recipe '{name}', nor a function of that name that returns one.{there}"
        )
    return found
