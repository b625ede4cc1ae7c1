"""A run of several runs: a directory with a run in it for each model that a recipe trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from overtone import settings, storage
from overtone.errors import OvertoneError
from overtone.leftovers import TEMPORARY
from overtone.runs import RECIPE_FILE, RUN_FILE
from overtone.training.configs.recipe import Recipe


def claim_runs(run: Path, recipe: Recipe, facts: dict[str, Any], prefix: str) -> None:
    """Make the directory of several runs, whose names begin with `prefix`, or see that it is that
    of the same ones: `facts` says which.

    Raises `OvertoneError` for a directory of anything else.
    """
    known = run / RUN_FILE
    strangers = run.is_dir() and not all(_is_ours(path.name, prefix) for path in run.iterdir())
    if strangers and not known.exists():
        raise OvertoneError(f"{run} is not empty and not a run: choose another --out.")
    # Of several jobs that begin together, a model each, one writes, and the others compare.
    if not storage.write_json_once(known, facts):
        differences = list(settings.difference(storage.read_json(known), facts))
        if differences:
            raise OvertoneError(
                f"{run} was made with other settings ({'; '.join(differences)}): use those, or"
                " another --out."
            )
    storage.write_json_once(run / RECIPE_FILE, settings.dump(recipe.anywhere()))


def _is_ours(name: str, prefix: str) -> bool:
    """Names that may be there before the run's own file: of a kill, or of a job that began at the
    same time."""
    return name in (RUN_FILE, RECIPE_FILE) or name.startswith((TEMPORARY, prefix))
