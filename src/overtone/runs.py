"""Finding one's way in the directory of a run (`rundir` writes it)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from overtone import storage
from overtone.errors import OvertoneError

RUN_FILE = "run.json"
RECIPE_FILE = "recipe.json"
LOCK_FILE = "lock"
LOG_FILE = "log.jsonl"
MERGED_FOLDER = "merged"
"""in a run of experts (`overtone.training.experts`), the pipeline of all"""
CHECKPOINTS = "checkpoints"


def is_run(folder: Path) -> bool:
    """Whether a directory is that of a run."""
    return (folder / RUN_FILE).exists()


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; a last line that a kill cut short is left out."""
    file = run / LOG_FILE
    entries = []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


def checkpoints_of(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folders = (f for f in (run / CHECKPOINTS).glob("[0-9]*") if f.name.isdecimal())
    return sorted((f for f in folders if f.is_dir()), key=lambda f: int(f.name))


def find_checkpoint(run: str | Path, which: str = "last") -> Path:
    """The 'last' or 'best' checkpoint of a run, itself the directory of a pipeline.

    Raises `OvertoneError` for a directory that is no run or has no checkpoint yet.
    """
    if which not in ("last", "best"):
        raise OvertoneError(f"a run has a last and a best checkpoint, and none called '{which}'.")
    run = Path(run).expanduser()
    if (run / MERGED_FOLDER).is_dir():
        if which == "best":
            raise OvertoneError(
                f"the experts of {run} are merged already, from their last checkpoints unless you"
                f" chose: overtone merge {run} --checkpoint best, and leave --checkpoint out here."
            )
        return run / MERGED_FOLDER
    folders = checkpoints_of(run)
    if not folders and list(run.glob("expert-*")):
        raise OvertoneError(f"{run} holds experts, not merged yet: overtone merge {run}.")
    if not folders:
        raise OvertoneError(f"{run} has no checkpoint yet.")
    if which == "best":
        progress = storage.read_json(folders[-1] / "training" / "progress.json")
        return run / CHECKPOINTS / f"{progress['best_images']:09d}"
    return folders[-1]
