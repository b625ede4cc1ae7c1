"""Scores of a run's images at its checkpoints, within a share of the run's time."""

from __future__ import annotations

import sys
import time
from typing import Any

from torch import nn

from overtone.errors import OvertoneError
from overtone.launch import ALONE
from overtone.metrics.evaluate import Evaluation
from overtone.metrics.extractors import features_by_name
from overtone.metrics.parts import SQUARED_ERRORS
from overtone.metrics.scores import scores_by_name
from overtone.pipelines.request import Request
from overtone.training.configs.training import Reporting
from overtone.training.judging import open_evaluation
from overtone.training.progress import Progress
from overtone.training.task import Task

BATCH = 64


class Scoring:
    """Scores the images of the first `scored_images` seeds, as the recipe's sampler and guidance
    make them.

    Raises `OvertoneError` for a task whose model makes no images, and for data that no evaluation
    can be opened with.
    """

    def __init__(self, task: Task, reporting: Reporting) -> None:
        self.task, self.reporting = task, reporting
        pipe = task.scored(task.model, Progress())
        if pipe is None:
            raise OvertoneError(
                f"--scored-images: a {task.name} that is trained like this makes no images by"
                " itself, so that there is nothing to score at a checkpoint."
            )
        scores = scores_by_name(reporting.scores)
        if any(SQUARED_ERRORS in score.needs for score in scores):
            raise OvertoneError(
                "--scores: the solver error takes many evaluations, and is not computed at"
                " checkpoints: overtone evaluate RUN --scores solver-error."
            )
        # One process scores, while the others wait.
        self.evaluation: Evaluation = open_evaluation(
            task.scored_beside,
            pipe.resolution,
            pipe.channels,
            reporting.scored_images,
            pipe.num_classes,
            extractor=features_by_name(reporting.score_extractor),
            scores=scores,
            reading=task.reading,
        )
        self.evaluation.among = ALONE
        self.last, self.said = 0.0, False

    def __call__(self, average: nn.Module, progress: Progress, *, show: bool) -> dict[str, Any]:
        """The scores with the ends of their intervals, as a line of the log; nothing where the run
        has not lasted long enough for them, which is said once.

        The time that this takes is added to `progress.scoring_seconds`.
        """
        share = self.reporting.score_share
        spent = progress.scoring_seconds + self.last
        if self.last and spent > share * (progress.seconds + spent):
            if show and not self.said:
                print(
                    f"a checkpoint's scores took {self.last:.0f} s, and may take {share:.0%} of"
                    " the run (--score-share): they are left out until it has lasted long enough",
                    file=sys.stderr,
                )
            self.said = True
            return {}
        began = time.perf_counter()
        pipe: Any = self.task.scored(average, progress)
        request = Request(range(self.reporting.scored_images), batch_size=BATCH)
        batches = ((b.images, b.class_labels) for b in pipe.stream(request))
        report = self.evaluation(batches, {})
        self.last = time.perf_counter() - began
        progress.scoring_seconds += self.last
        return {"scored_images": report.images} | dict(_entries(report))


def _entries(report: Any) -> Any:
    for name, score in report.scores.items():
        yield name, score.value
        if score.interval is not None:
            yield f"{name}_low", score.interval[0]
            yield f"{name}_high", score.interval[1]
