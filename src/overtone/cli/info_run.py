"""`overtone info` says of a run how far it is, how it went, what it made and how it goes on."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from overtone import former, settings, storage
from overtone.errors import OvertoneError
from overtone.runs import (
    CHECKPOINTS,
    PROGRESS_FILE,
    RECIPE_FILE,
    RUN_FILE,
    best_told,
    checkpoints_of,
    halvings_of,
    read_log,
    whole_of,
)
from overtone.training.progress import Progress
from overtone.training.recipes import command_of, command_with_weights

GOES_ON = "goes on with"
"""what the command that resumes a run is told under"""
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 48
"""characters of a curve"""
LOSSES = {"held_out_loss": "held-out loss", "averaged_loss": "loss on training images"}


def run_told(folder: Path) -> dict[str, Any]:
    """What stands in the files of a run."""
    recipe = storage.read_json(folder / RECIPE_FILE, dict)
    found: dict[str, Any] = {"kind": "run", "data": recipe.get("data")}
    experts, students = sorted(folder.glob("expert-*")), halvings_of(folder)[::-1]
    if experts or students:
        found["kind"] = "run of experts" if experts else "run of halvings"
        found |= storage.read_json(folder / RUN_FILE, dict)
        for part in experts or students:  # which goes on with the others
            told = run_told(part)
            told.pop(GOES_ON, None)
            found[part.name] = told
        return found | {GOES_ON: f"overtone {command_of(folder)} {shlex.quote(str(folder))}"}
    log, checkpoints = read_log(folder), checkpoints_of(folder)
    progress = _progress(checkpoints)
    if progress is not None:
        found |= {
            "images seen": progress.images,
            "of": _plan(recipe).get("total_images"),
            "hours trained": round(progress.seconds / 3600, 3),
            "images per second": _rate(progress),
            "computed with": progress.computed,
            "best checkpoint": best_told(folder),
        }
    found["loss"] = next((e["loss"] for e in reversed(log) if "loss" in e), None)
    found |= _curves(log) | _scores(log)
    found["checkpoints"] = [path.name for path in checkpoints]
    if (grids := sorted((folder / "grids").glob("*.png"))) and progress is not None:
        found["last grid"] = str(grids[-1])
    if progress is not None and (command := _command(folder, progress, recipe)):
        found[GOES_ON] = command
    return found


def _progress(checkpoints: Sequence[Path]) -> Progress | None:
    if not checkpoints:
        return None
    file = checkpoints[-1] / PROGRESS_FILE
    return settings.load(Progress, former.progress(storage.read_json(file, dict)), str(file))


def _rate(progress: Progress) -> float | None:
    """Images a second over the whole run, its checkpoints and scores included."""
    return round(progress.images / progress.seconds, 3) if progress.seconds else None


def _curves(log: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The losses over the images seen, a bar for each part of the run, on a logarithmic scale."""
    found = {}
    for key, title in {"loss": "loss over the run", **LOSSES}.items():
        points = [(e["images"], e[key]) for e in log if isinstance(e.get(key), int | float)]
        if len(points) > 1:
            first, last = points[0][1], points[-1][1]
            found[f"curve of the {title.removesuffix(' over the run')}"] = (
                f"{curve(points)} {first:.4g} to {last:.4g}"
            )
    return found


def curve(points: Sequence[tuple[int, float]], width: int = WIDTH) -> str:
    """Values over images seen as bars, at most `width` of them, each the mean of its part."""
    last = max(images for images, _ in points) or 1
    count = min(width, len(points))
    parts: list[list[float]] = [[] for _ in range(count)]
    for images, value in points:
        if value > 0 and math.isfinite(value):
            parts[min(count - 1, images * count // (last + 1))].append(math.log(value))
    means = [sum(part) / len(part) for part in parts if part]
    if not means:
        return ""
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / ((high - low) or 1.0)
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def _scores(log: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The last scores of a checkpoint, with their intervals."""
    from overtone.metrics.scores import measures

    scored = [entry for entry in log if "scored_images" in entry]
    if not scored:
        return {}
    last, told = scored[-1], {}
    for name, measure in measures().items():
        value = last.get(name)
        if isinstance(value, int | float):
            ends = [last.get(f"{name}_{end}") for end in ("low", "high")]
            interval = ""
            if all(isinstance(end, int | float) for end in ends):
                low, high = (measure.shown(float(end)) for end in ends if end is not None)
                interval = f" ({low} to {high})"
            told[measure.title] = f"{measure.shown(value)}{interval}"
    return {f"scores at image {last['images']:,}": told}


def _command(folder: Path, progress: Progress, recipe: dict[str, Any]) -> str:
    """The command that resumes a run, to its end or beyond it; "" where there is none."""
    plan = _plan(recipe)
    total = plan.get("total_images")
    command = f"overtone {command_of(folder)} {shlex.quote(str(whole_of(folder)))}"
    if isinstance(total, int) and progress.images < total:
        return command
    if whole_of(folder) != folder:  # a student, which ends with the others
        return ""
    longer = 2 * total if isinstance(total, int) else 0
    if not plan.get("lr_rampdown_images"):
        return f"{command} --total-images {longer}"
    return command_with_weights(folder, longer)  # its learning rate has fallen to 0


def _plan(recipe: dict[str, Any]) -> dict[str, Any]:
    plan = recipe.get("training")
    return plan if isinstance(plan, dict) else {}


def draw_curve(folder: Path, out: Path) -> None:
    """The losses and scores of a run over the images seen, as a picture. Raises `OvertoneError`
    for a run without a log."""
    from overtone.analysis.plots import training_curve

    log = read_log(folder)
    if not any("loss" in entry for entry in log):
        raise OvertoneError(f"{folder} has no log of a loss yet: {CHECKPOINTS} come first.")
    with storage.new_file(out) as file:
        training_curve(log, file)
