"""What the studies share: results kept entry by entry, losses by intervals of noise levels, and
paired differences."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from overtone import precision, storage
from overtone.analysis.comparison import Comparison
from overtone.data import ImageData
from overtone.data.images import to_unit
from overtone.denoisers import EDMPreconditioning
from overtone.errors import OvertoneError
from overtone.metrics import Evaluation
from overtone.metrics.halves import difference as columns_apart
from overtone.metrics.scores import measures
from overtone.processes import SeededNoise

DOCS = Path(__file__).parents[2] / "docs"
T = {4: 2.776, 49: 2.010}
"""97.5 % quantiles of Student's t by degrees of freedom"""
BATCHES = 50
"""means of batches that an interval is told from"""
SCORES = ("frechet_distance", "precision", "recall", "class_accuracy")
Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
"""Images and their classes, batch by batch."""


class Results:
    """The entries of a study in docs/studies/NAME.json, each computed once."""

    def __init__(self, name: str) -> None:
        self.file = DOCS / "studies" / f"{name}.json"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.entries = self._read()

    def _read(self) -> dict[str, Any]:
        return storage.read_json(self.file, dict) if self.file.exists() else {}

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """The entry of a name, computed and written down if it is not there, which is said."""
        if name in self.entries:
            print(f"{name}: {self.file} has it, and it is not computed again", file=sys.stderr)
            return self.entries[name]
        entry = compute()
        with FileLock(self.file.with_suffix(".lock")):
            self.entries = self._read() | {name: entry}  # another process may have added to it
            storage.write_json(self.file, self.entries)
        return entry


def run_study(study: Callable[[], None]) -> None:
    """A study from the command line: what stops it is said in one line, as by the commands."""
    try:
        study()
    except OvertoneError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def write_page(name: str, title: str, lines: Sequence[str]) -> None:
    """docs/studies/NAME.md, which is printed too."""
    page = "\n".join((f"# {title}", "", *lines)).rstrip() + "\n"
    (DOCS / "studies" / f"{name}.md").write_text(page)
    print(page)


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half of its 95 % interval, by Student's t."""
    half = T[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), half


def difference(values: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """The mean of the paired differences and half of its 95 % interval."""
    return mean_and_half([own - other for own, other in zip(values, others, strict=True)])


def shown(mean: float, half: float, digits: int = 4) -> str:
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def comparison_rows(found: Comparison) -> dict[str, Any]:
    """The scores of compared models, and their differences from the first, as JSON."""
    scores = found.frame()[["model", "evaluations", "score", "value", "low", "high"]]
    return {
        "scores": scores.astype(object).where(scores.notna(), None).to_dict("records"),
        "differences": list(found.paired()),
    }


def scores_of(rows: dict[str, Any], model: str) -> dict[str, Any]:
    """The rows of one model's scores, by the score's name."""
    return {row["score"]: row for row in rows["scores"] if row["model"] == model}


def between(row: dict[str, Any], name: str, digits: int = 4) -> str:
    """A row's number and its interval."""
    return _between((row[name], row["low"], row["high"]), digits)


def scored(evaluation: Evaluation, images: Batches, name: str) -> dict[str, Any]:
    """The scores of images with intervals, and what differences of distances are computed from."""
    report = evaluation(images, {"entry": name})
    scores = {
        score: [report.value(score), *(report.interval(score) or (None, None))] for score in SCORES
    }
    return scores | {"columns": report.columns["frechet_distance"].tolist()}


def scored_rows(entries: dict[str, Any], base: str) -> list[str]:
    """A table of scored entries, and how much further from real images than `base` each is."""
    lines = [f"| | Fréchet distance | less the {base}'s | precision | recall | class accuracy |"]
    lines += ["|---" * 6 + "|"]
    for name, entry in entries.items():
        less = further(entry, entries[base]) if base in entries and name != base else ""
        value = _between(entry["frechet_distance"])
        rest = " | ".join(f"{entry[score][0]:.1%}" for score in SCORES[1:])
        lines += [f"| {name} | {value} | {less} | {rest} |"]
    return lines


def further(entry: dict[str, Any], other: dict[str, Any], *, of_other: float = 1.0) -> str:
    """The distance of a scored entry less a part of another's, with its interval."""
    own, theirs = (torch.tensor(e["columns"], dtype=torch.float64) for e in (entry, other))
    biased = measures()["frechet_distance"].biased
    found = columns_apart(own, theirs * of_other, biased=biased)
    return _between([found.value, *(found.interval or ())])


def _between(numbers: Sequence[float], digits: int = 3) -> str:
    value, low, high = numbers
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def interval_losses(
    denoiser: Any,
    data: ImageData,
    boundaries: Sequence[float],
    *,
    count: int = 5_000,
    ends: tuple[float, float] = (0.002, 80.0),
) -> list[list[float]]:
    """EDM's loss of held-out images within each interval of noise levels, as `BATCHES` means.

    Image k has one noise level in each interval, uniform in its logarithm, and one noise, which
    depend on k and the interval alone: models are compared on the same ones.
    """
    device = precision.default_device()
    denoiser = denoiser.to(device).eval()
    weight, size = EDMPreconditioning().weight, count // BATCHES
    edges, found = (ends[0], *boundaries, ends[1]), []
    for number, (low, high) in enumerate(pairwise(edges)):
        means = []
        for at in range(0, size * BATCHES, size):
            which = [k % len(data) for k in range(at, at + size)]
            pixels, labels = data.fetch(which)
            source = SeededNoise(number * 10_000_000 + k for k in range(at, at + size))
            sigma = (low * (high / low) ** source.uniform()).float()
            x_0 = to_unit(pixels)
            x = x_0 + sigma[:, None, None, None] * source.normal(x_0)
            own = labels.to(device) if denoiser.num_classes else None
            with torch.no_grad(), precision.autocast("auto", device):
                made = denoiser(x.to(device), sigma.to(device), own).x_0.float().cpu()
            error = (made - x_0).square().mean(dim=(1, 2, 3))
            means.append(float((weight(sigma) * error).mean()))
        found.append(means)
    return found
