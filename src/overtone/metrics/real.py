"""The real side of an evaluation: images, or the statistics of images that somebody published."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from overtone.data.images import ImageData
from overtone.data.names import text_of
from overtone.errors import OvertoneError, counted
from overtone.launch import Processes
from overtone.metrics.cache import BATCH, by_part, features_of
from overtone.metrics.features import Extractor
from overtone.metrics.frechet import frechet_distance
from overtone.metrics.neighbours import precision_recall
from overtone.metrics.parts import CLASSES, HITS, LOGITS, SPATIAL, VECTORS
from overtone.metrics.reference import Reference
from overtone.metrics.scores import Score, all_scores
from overtone.metrics.vectors import Held, Vectors

LEAST_REAL, LEAST = 8, 4
"""real images and images to judge, without which there are no third neighbours"""


def check_counts(real: int, asked: int | None = None, scores: Sequence[Score] = ()) -> None:
    """Raises `OvertoneError` for fewer images than the scores need."""
    if real < LEAST_REAL:
        raise OvertoneError(
            f"{_few(real, 'real image')} to compare with: {LEAST_REAL} are the least, so"
            " that each of two halves has a third neighbour."
        )
    if asked is not None and asked < LEAST:
        raise OvertoneError(f"{_few(asked)} to evaluate: ask for {LEAST} at least.")
    for score in scores:
        count = min(real, real if asked is None else asked)
        if count < score.least:
            raise OvertoneError(
                f"{_few(count)} for {score.title}: {score.least} are the least. Take"
                " more, or name the other scores, --scores."
            )


def _few(count: int, thing: str = "image") -> str:
    return f"{counted(count, thing)} {'is' if count == 1 else 'are'} too few"


@dataclass(frozen=True)
class RealFacts:
    """What a report says of the real side."""

    real: str
    """The name of the data."""
    real_images: int | None
    """The number of real images. None means that published statistics do not say it."""
    real_digest: str
    """The digest of the images' contents."""
    resize_rule: str
    real_frechet_distance: float | None
    """The Fréchet distance between two halves of the real images, each class split evenly. A
    perfect model would get it with as many images, and as many of each class."""
    real_recall: float | None
    """The recall of one half of the real images by the other."""


class RealImages:
    """Real images: at most `limit` of a data set, evenly spread over one that is ordered.

    Their features are computed once, and kept in the cache.
    """

    def __init__(
        self,
        extractor: Extractor,
        data: ImageData,
        limit: int,
        scores: tuple[Score, ...],
        among: Processes,
    ) -> None:
        self.data = data
        count = min(len(data), limit)
        check_counts(count, None, scores)
        # A fixed shuffle, so that the halves are alike whatever the order of the data.
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        spread = data.spread(count)
        needed = {VECTORS, CLASSES, *(part for score in scores for part in score.real_needs)}
        kept = features_of(extractor, data, [spread[i] for i in order.tolist()], needed, among)
        held = {part: Held(kept[part].read(0, count)) for part in needed}
        self.parts = held
        self.vectors = held[VECTORS].vectors
        # Every second image of each class: with random halves the distance would mostly be that of
        # the numbers of images in the classes, which samples of given classes do not have.
        by_class = held[CLASSES].vectors[:, 0].argsort(stable=True)
        first, second = self.vectors[by_class[0::2]], self.vectors[by_class[1::2]]
        self.facts = RealFacts(
            real=data.name,
            real_images=count,
            real_digest=data.fingerprint,
            resize_rule=data.resize_rule,
            real_frechet_distance=frechet_distance(first, second),
            real_recall=precision_recall(first, second)[1],
        )


class RealStatistics:
    """Means and covariances of real images that somebody published, in the place of images."""

    parts: Mapping[str, Vectors] = {}
    vectors: Tensor = torch.empty(0, 0)

    def __init__(self, reference: Reference) -> None:
        self.facts = RealFacts(
            real=reference.real or text_of(os.path.basename(reference.file)),
            real_images=reference.count,
            real_digest=reference.real_digest,
            resize_rule=reference.resize_rule,
            real_frechet_distance=None,
            real_recall=None,
        )


@dataclass(frozen=True)
class Available:
    """What scores can be computed from: the parts that an extractor gives of images, whether it
    knows their classes, and what there is of the real side."""

    extractor: Extractor
    parts: Set[str]
    images: bool
    """Whether there are real images."""
    statistics: Set[str]
    """The parts for which there are published statistics."""

    def default(self) -> tuple[Score, ...]:
        """The scores that are computed by default: all that can be."""
        return tuple(score for score in all_scores() if score.by_default and self.allows(score))

    def allows(self, score: Score) -> bool:
        """Whether a score can be computed."""
        there = self.parts | ({HITS} if self.extractor.knows_classes else set())
        return {*score.needs} <= there and self._has_real(score)

    def _has_real(self, score: Score) -> bool:
        wanted = {*score.real_needs}
        known = self.statistics if score.takes_statistics else set()
        return wanted <= known or (self.images and wanted <= self.parts)

    def check(self, scores: Sequence[Score]) -> None:
        """Raises `OvertoneError` for a score that needs what is not there."""
        why = {SPATIAL: "no spatial features", LOGITS: "no class scores"}
        for score in scores:
            for part in sorted({*score.needs, *score.real_needs} & {*why} - self.parts):
                raise OvertoneError(
                    f"{score.title}: {self.extractor.name} gives {why[part]}: leave the score out"
                    " of --scores, or take another --extractor."
                )
            if HITS in score.needs and not self.extractor.knows_classes:
                raise OvertoneError(
                    f"{score.title}: {self.extractor.name} does not know the classes of the data;"
                    " the classifier does (--extractor classifier)."
                )
            if not self._has_real(score):
                held = " and ".join(sorted(self.statistics))
                raise OvertoneError(
                    f"{score.title}: --data holds statistics of {held} alone, and this score needs"
                    " the real images: leave it out of --scores, or give images as --data."
                )


def accuracy_of(extractor: Extractor, data: ImageData, among: Processes) -> float | None:
    """The share of real images that are taken for what they are; None without class scores."""
    if not extractor.knows_classes:
        return None
    mine, hits = among.share(range(len(data))), 0
    for at in range(0, len(mine), BATCH):
        pixels, labels = data.fetch(mine[at : at + BATCH])
        said: dict[str, Any] = by_part(extractor(pixels))
        hits += int((said["logits"].argmax(1) == labels).sum())
    return sum(among.gather(hits)) / len(data)


def hits_of(logits: Tensor | None, labels: Tensor | None, count: int) -> Tensor:
    """For each image 1 if it is taken for its class, 0 if not, nan if it has none, (count, 1)."""
    if logits is None or labels is None:
        return torch.full((count, 1), torch.nan)
    return (logits.argmax(1) == labels).float()[:, None]
