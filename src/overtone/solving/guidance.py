"""Guidance fitted to a model: its scale, its interval, and the scale of high frequencies.

Every setting is judged at the same number of function evaluations: where guidance does not act, an
evaluation less is spent, and the sampler takes more steps. The setting of the smallest Fréchet
distance is taken whose recall is not far below that without guidance. What is found on some seeds
is compared with the model's own guidance on others, and kept only if the 95 % interval of the
difference lies below 0, so that it does not chase noise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from overtone.denoisers.guidance import GuidanceSettings
from overtone.errors import OvertoneError
from overtone.metrics.halves import Measured, difference
from overtone.pipelines.budgets import within_few
from overtone.pipelines.request import Request
from overtone.solving.settings import GuidanceSearch

if TYPE_CHECKING:
    from overtone.metrics.evaluate import Evaluation, Report
    from overtone.pipelines.pipeline import Pipeline

SEARCH, CHECK = 2**31 + 2**25, 2**31 + 2**26
"""the first of the seeds of the search, and of those of the check"""
SCALES = (1.0, 1.25, 1.5, 2.0, 3.0)
STRONGER = (1.0, 1.5)
"""factors of (scale - 1) that are tried within an interval"""
BANDS = ((1.0, 1.5), (1.0, 2.0), (0.5, 1.0), (0.5, 1.5))
"""factors of (scale - 1) for low and for high frequencies"""
DISTANCE = "frechet_distance"


@dataclass(frozen=True)
class Trial:
    """Guidance, and the scores of the images made under it."""

    guidance: GuidanceSettings
    report: Report

    @property
    def distance(self) -> float:
        return self.report.value(DISTANCE)

    @property
    def recall(self) -> float:
        return self.report.value("recall")

    def __str__(self) -> str:
        return (
            f"{words_of(self.guidance)}: Fréchet distance {_shown(self.report, DISTANCE)}, recall"
            f" {_shown(self.report, 'recall')}"
        )


@dataclass(frozen=True)
class GuidanceOutcome:
    """The guidance that was found, the model's own, both on seeds that nothing was chosen by."""

    found: Trial
    own: Trial
    better_by: Measured
    """The difference of the two Fréchet distances."""
    kept: bool

    def __str__(self) -> str:
        low, high = self.better_by.interval or (math.nan, math.nan)
        told = f"the difference is {self.better_by.value:.4g} ({low:.4g} to {high:.4g})"
        if self.kept:
            return f"{self.found}. Beside the model's own, {told}."
        return f"Not kept: {self.found}; the model's own, {self.own}; {told}."


def fitted_guidance(
    pipe: Pipeline,
    evaluation: Evaluation,
    evaluations: int,
    settings: GuidanceSearch | None = None,
    *,
    told: Callable[[Trial], None] = lambda trial: None,
) -> GuidanceOutcome:
    """Search guidance for a pipeline at a number of function evaluations, a first stage's included.

    `evaluation` judges the images, by the Fréchet distance and the recall. `told` is given each
    trial. The pipeline stays as it is. Raises `OvertoneError` for a model that can't be guided.
    """
    settings = settings or GuidanceSearch()
    check_scores(evaluation)
    pipe.guided(GuidanceSettings(2.0))
    search = _Search(pipe, evaluation, evaluations, settings, told)
    best = search.best()
    seeds = range(CHECK, CHECK + settings.images)
    found, own = (search.trial(guidance, seeds) for guidance in (best.guidance, pipe.guidance))
    plain = search.trial(_plain(pipe.guidance), seeds)
    better = difference(found.report.columns[DISTANCE], own.report.columns[DISTANCE])
    below = better.interval is not None and better.interval[1] < 0
    kept = below and found.recall >= settings.recall_floor * plain.recall
    return GuidanceOutcome(found, own, better, kept)


class _Search:
    """Trials at one number of evaluations."""

    def __init__(
        self,
        pipe: Pipeline,
        evaluation: Evaluation,
        evaluations: int,
        settings: GuidanceSearch,
        told: Callable[[Trial], None],
    ) -> None:
        self.pipe, self.evaluation, self.evaluations = pipe, evaluation, evaluations
        self.settings, self.told = settings, told

    def trial(self, guidance: GuidanceSettings, seeds: Sequence[int]) -> Trial:
        """The scores of the images of some seeds under some guidance."""
        own = copy.copy(self.pipe)
        own.guidance = guidance
        request = within_few(own, Request(seeds), self.evaluations)
        made: Any = ((batch.images, batch.class_labels) for batch in own.stream(request))
        return Trial(guidance, self.evaluation(made, own.made_with(request)))

    def best(self) -> Trial:
        """The best of all trials: first of scales, then of intervals, then of frequencies."""
        seeds = range(SEARCH, SEARCH + self.settings.images)
        trials: list[Trial] = []
        for stage in (self._scales, self._intervals, self._bands):
            before = self._chosen(trials) if trials else None
            for guidance in stage(before):
                trials.append(self.trial(guidance, seeds))
                self.told(trials[-1])
        return self._chosen(trials)

    def _chosen(self, trials: Sequence[Trial]) -> Trial:
        """The smallest distance of those with enough recall, which the first trial, without
        guidance, has."""
        floor = self.settings.recall_floor * trials[0].recall
        return min((t for t in trials if t.recall >= floor), key=lambda trial: trial.distance)

    def _scales(self, best: Trial | None) -> Iterator[GuidanceSettings]:
        plain = _plain(self.pipe.guidance)
        for scale in SCALES:
            yield replace(plain, scale=scale)

    def _intervals(self, best: Trial | None) -> Iterator[GuidanceSettings]:
        """Without the highest noise levels, without the lowest, and without both."""
        assert best is not None
        if not best.guidance.acts:
            return
        levels = self.pipe.sampler.visited
        third, half, last = (
            levels[int(part * (len(levels) - 1))] for part in (1 / 3, 1 / 2, 3 / 4)
        )
        for interval in ((0.0, third), (0.0, half), (last, math.inf), (last, third)):
            for factor in STRONGER:
                if interval[0] < interval[1]:
                    scale = _scaled(best.guidance.scale, factor)
                    yield replace(best.guidance, interval=interval, scale=scale)

    def _bands(self, best: Trial | None) -> Iterator[GuidanceSettings]:
        assert best is not None
        if not best.guidance.acts:
            return
        scale = best.guidance.scale
        for low, high in BANDS:
            yield replace(best.guidance, scale=_scaled(scale, low), high_scale=_scaled(scale, high))


def _plain(guidance: GuidanceSettings) -> GuidanceSettings:
    """No guidance, in the channels that it would act on."""
    return replace(guidance, scale=1.0, high_scale=None, interval=None)


def _scaled(scale: float, factor: float) -> float:
    return round(1 + factor * (scale - 1), 4)


def words_of(guidance: GuidanceSettings) -> str:
    """Guidance in words."""
    if not guidance.acts:
        return "no guidance"
    words = f"guidance scale {guidance.scale:g}"
    if guidance.high_scale is not None:
        words += f", {guidance.high_scale:g} for high frequencies"
    if guidance.interval is not None:
        low, high = guidance.interval
        words += f", for sigma from {low:.3g} to {high:.3g}"
    return words


def _shown(report: Report, name: str) -> str:
    interval = report.interval(name)
    value = f"{report.value(name):.4g}"
    return value if interval is None else f"{value} ({interval[0]:.4g} to {interval[1]:.4g})"


def check_scores(evaluation: Evaluation) -> None:
    """Raises `OvertoneError` for an evaluation without the scores that guidance is chosen by."""
    kinds = {score.kind for score in evaluation.scores}
    if not {"frechet", "precision-recall"} <= kinds:
        raise OvertoneError(
            "guidance is chosen by the scores frechet and precision-recall: leave --scores out, or"
            " name both."
        )
