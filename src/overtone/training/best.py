"""Which checkpoint of a run is its best: by the held-out loss, or by a score of its images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from overtone.errors import OvertoneError, unknown
from overtone.metrics.scores import measures, scores_by_name
from overtone.training.configs.training import BEST_BY_LOSS, Reporting
from overtone.training.progress import Progress


@dataclass(frozen=True)
class Criterion:
    """A number in a run's log by which its checkpoints are ranked."""

    name: str
    """The name that is written in the log."""
    title: str
    """The name that people read."""
    lower_is_better: bool = True

    def judge(self, progress: Progress, entry: Mapping[str, Any]) -> None:
        """Note a checkpoint as the best where what was logged of it says so. A run that was ranked
        by another criterion before begins anew."""
        if progress.best_by != self.title:
            progress.best_by, progress.best_value = self.title, None
        value = entry.get(self.name)
        if value is None:
            return
        sign = 1 if self.lower_is_better else -1
        if progress.best_value is None or sign * value < sign * progress.best_value:
            progress.best_value, progress.best_images = value, entry["images"]

    def judge_again(
        self, progress: Progress, log: Iterable[Mapping[str, Any]], kept: Sequence[int]
    ) -> None:
        """The best of the checkpoints that are still there, for a run that goes on under another
        criterion than before."""
        if progress.best_by == self.title:
            return
        for entry in log:
            if entry["images"] in kept:
                self.judge(progress, entry)


def criterion_of(reporting: Reporting, *, held_out: bool) -> Criterion:
    """What the best checkpoint is chosen by; `held_out` says whether there are held-out images.

    Raises `OvertoneError` for a score that is not computed at checkpoints.
    """
    if reporting.best == BEST_BY_LOSS:
        if held_out:
            return Criterion("held_out_loss", "held-out loss")
        return Criterion("averaged_loss", "loss on training images")
    name = reporting.best.replace("-", "_")
    if name not in measures():
        known = [BEST_BY_LOSS, *(known.replace("_", "-") for known in measures())]
        raise unknown("criterion for --best", reporting.best, known)
    computed = [m.name for score in scores_by_name(reporting.scores) for m in score.measures]
    if not reporting.scored_images:
        raise OvertoneError(
            f"--best {reporting.best} needs scores at each checkpoint: pass --scored-images, the"
            " number of images that are scored."
        )
    if name not in computed:
        raise OvertoneError(
            f"--best {reporting.best} is not among the scores of a checkpoint"
            f" ({', '.join(computed).replace('_', '-')}): name its score in --scores."
        )
    measure = measures()[name]
    return Criterion(name, measure.title, measure.lower_is_better)
