"""Finding one's way in the directory of a run (`rundir` writes it)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from overtone import former, storage
from overtone.errors import OvertoneError
from overtone.regular import read_regular

T = TypeVar("T")

RUN_FILE = "run.json"
RECIPE_FILE = "recipe.json"
LOCK_FILE = "lock"
LOG_FILE = "log.jsonl"
MERGED_FOLDER = "merged"
"""in a run of experts (`overtone.training.experts`), the pipeline of all"""
HALVING = "steps-"
"""in a run of halvings (`overtone.training.halving`), what the name of each student's run begins
with; the number of its steps follows"""
CHECKPOINTS = "checkpoints"
PROGRESS_FILE = "training/progress.json"
"""in a checkpoint: how far the run had come, and the digests of the checkpoint's files"""
LARGEST_LOG = 2**30


def is_run(folder: Path) -> bool:
    """Whether a directory is that of a run."""
    return os.path.exists(folder / RUN_FILE)  # of a name that can be none, too


def has_recipe(folder: Path) -> bool:
    """Whether it is that of a run which says what it trains: it does from its beginning on, but for
    the moment between the two files."""
    return is_run(folder) and (folder / RECIPE_FILE).exists()


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log that say at which image they were written; others, a last one that
    a kill cut short say, are left out."""
    entries = (_entry(line) for line in log_lines(run))
    return [entry for entry in entries if entry is not None]


def log_lines(run: Path) -> list[str]:
    """The lines of a run's log, as they are."""
    try:
        text = read_regular(run / LOG_FILE, LARGEST_LOG)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OvertoneError(f"{run / LOG_FILE} can't be read ({error.strerror}).") from None
    return text.decode(errors="backslashreplace").splitlines(keepends=True)


def lines_until(run: Path, images: int) -> list[str]:
    """The lines of a run's log without those written after `images`, and without a last one that
    was cut short. What can't be read is kept: it may be somebody's."""
    lines = log_lines(run)
    if lines and not lines[-1].endswith("\n"):
        last = lines.pop()
        lines += [f"{last}\n"] if _entry(last) is not None else []
    entries = [(line, _entry(line)) for line in lines]
    return [line for line, entry in entries if entry is None or entry["images"] <= images]


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(entry, dict) and type(entry.get("images")) is int
    return entry if whole else None


def checkpoints_of(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folders = (f for f in (run / CHECKPOINTS).glob("[0-9]*") if f.name.isdecimal())
    return sorted((f for f in folders if f.is_dir()), key=lambda f: int(f.name))


def halving_folder(run: Path, steps: int) -> Path:
    """The run of the student of a number of steps, within the run of all."""
    return run / f"{HALVING}{steps}"


def whole_of(run: Path) -> Path:
    """The run of halvings that a student's run lies in; any other run itself."""
    inside = run.name.startswith(HALVING) and is_run(run.parent)
    return run.parent if inside else run


def halvings_of(run: Path) -> list[Path]:
    """The runs of the students in a run of halvings that have a checkpoint, the fewest steps
    first."""
    found = (f for f in run.glob(f"{HALVING}[0-9]*") if f.name[len(HALVING) :].isdecimal())
    return sorted(filter(checkpoints_of, found), key=lambda f: int(f.name[len(HALVING) :]))


def open_checkpoint(run: str | Path, which: str, opened: Callable[[Path], T]) -> T:
    """What `opened` makes of a checkpoint. A run that goes on deletes old ones: where the one that
    was found is gone before it is read, a newer one takes its place. Raises `OvertoneError` as
    `find_checkpoint` and `opened` do."""
    while True:
        found = find_checkpoint(run, which)
        try:
            return opened(found)
        except OvertoneError:
            if found.is_dir():
                raise


def find_checkpoint(run: str | Path, which: str = "last") -> Path:
    """The 'last' or 'best' checkpoint of a run, itself the directory of a pipeline; that of the
    student of the fewest steps in a run of halvings.

    Raises `OvertoneError` for a directory that is not a run or has no checkpoint yet.
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
    if not folders and (students := halvings_of(run)):
        return find_checkpoint(students[0], which)
    if not folders and list(run.glob("expert-*")):
        raise OvertoneError(f"{run} holds experts, not merged yet: overtone merge {run}.")
    if not folders:
        raise OvertoneError(f"{run} has no checkpoint yet.")
    if which == "best":
        file = folders[-1] / PROGRESS_FILE
        progress = former.progress(storage.read_json(file, dict))
        number = progress.get("best_images")
        if number == 0 and progress.get("best_value") is None:
            raise OvertoneError(
                f"no checkpoint of {run} has been ranked by {progress.get('best_by')} yet: leave"
                " --checkpoint out to take the last one."
            )
        best = [folder for folder in folders if int(folder.name) == number]
        if not best:
            raise OvertoneError(
                f"{file} names {number} as the best checkpoint, which is not there."
            )
        return best[0]
    return folders[-1]


def best_told(run: str | Path) -> str:
    """Which checkpoint of a run is its best, and by what, in a few words; "" if none is known."""
    folders = checkpoints_of(Path(run).expanduser())
    if not folders:
        return ""
    progress = former.progress(storage.read_json(folders[-1] / PROGRESS_FILE, dict))
    number, value = progress.get("best_images"), progress.get("best_value")
    if type(number) is not int or not isinstance(value, int | float):
        return ""
    return f"{number:09d}, by {progress.get('best_by')} ({value:.4g})"
