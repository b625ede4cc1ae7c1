"""An evaluation: images compared with real ones, and everything needed to repeat it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from overtone.data.images import ImageData
from overtone.errors import OvertoneError
from overtone.launch import ALONE, Processes
from overtone.metrics.cache import BATCH, by_part, features_of, folder, parts_of
from overtone.metrics.features import Extractor
from overtone.metrics.halves import LEAST, REPLICATES, Measured, measured
from overtone.metrics.memorisation import Nearest, check_training, nearest_of, reduced
from overtone.metrics.parts import CLASSES, HITS, LOGITS, NEAREST, PIXELS, SPATIAL, VECTORS
from overtone.metrics.real import (
    LEAST_REAL,
    Available,
    RealFacts,
    RealImages,
    RealStatistics,
    accuracy_of,
    check_counts,
    hits_of,
)
from overtone.metrics.reference import Reference
from overtone.metrics.sample import Sample
from overtone.metrics.scores import Measure, Score, measures
from overtone.metrics.vectors import FeatureFile, Held, Vectors
from overtone.sizes import Resolution

WIDE, FEW = 512, 40
"""from so many dimensions on, so few halves are drawn: each takes the time of its covariance"""


@dataclass(frozen=True)
class Report:
    """The scores of some images with their intervals, and what they were computed from.

    A score's value is an attribute of its name, `report.frechet_distance`, and None where it was
    not computed.
    """

    images: int
    scores: Mapping[str, Measured]
    against: RealFacts
    """The real images, whose facts are attributes of the report as well: `report.real_images`."""
    classifier_accuracy: float | None
    """The class accuracy of the held-out real images."""
    extractor: str
    extractor_digest: str
    made_with: Mapping[str, Any]
    """Where the images come from: seeds, sampler, guidance."""
    asked: tuple[str, ...] = ()
    """The scores that were to be computed."""
    columns: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """The scores of all images and of each half, from which differences of reports are computed."""
    nearest: Nearest | None = field(default=None, repr=False)
    """The training images that the images are nearest to, where memorisation was asked for."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in measures():
            return self.scores[name].value if name in self.scores else None
        if not name.startswith("_") and name in RealFacts.__dataclass_fields__:
            return getattr(self.against, name)
        raise AttributeError(f"a report has no '{name}'")

    def value(self, name: str) -> float:
        """The value of a score. Raises `KeyError` where it was not computed."""
        return self.scores[name].value

    def interval(self, name: str) -> tuple[float, float] | None:
        """The 95 % interval of a score; None where there are too few images."""
        return self.scores[name].interval

    def extrapolated(self) -> Report:
        """The report with the scores that are biased by the number of images extrapolated to
        infinitely many."""
        scores = {name: score.extrapolated() for name, score in self.scores.items()}
        return replace(self, scores=scores)

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON; scores that were not computed are null."""
        scores = self.scores
        return {
            "images": self.images,
            **dict.fromkeys(self.asked),
            **{name: score.value for name, score in scores.items()},
            "intervals": {name: score.interval for name, score in scores.items()},
            "biases": {n: s.bias for n, s in scores.items() if s.bias is not None},
            **asdict(self.against),
            "classifier_accuracy": self.classifier_accuracy,
            "extractor": self.extractor,
            "extractor_digest": self.extractor_digest,
            "made_with": dict(self.made_with),
        }


class Evaluation:
    """Compares images with the real ones of `data`, through one extractor.

    The real images' features, their halves' distance included, are computed once. The work is
    shared among the processes of a job.

    Arguments:
        data: the real images; None where there is a `reference` alone.
        held_out: real images whose class accuracy is reported beside the others'.
        limit: real images that are used at most, evenly spread over an ordered set.
        scores: which scores; if left out, those that the extractor's features allow.
        replicates: random halves of the images that the intervals come from; if left out, 200, or
            40 where there are 512 features or more.
        reference: published statistics of real images, which the Fréchet distances are computed
            from, in the place of the images if there are both.
        shape: (resolution, channels) of the images, where no data say it.
        asked: how many images will be evaluated, where that is known: too few for a score are
            refused before any work.
        training: what memorisation is looked for in; `data` if left out.

    Raises `OvertoneError` for too few real images, and for a score that can't be computed.
    """

    def __init__(
        self,
        extractor: Extractor,
        data: ImageData | None,
        held_out: ImageData | None = None,
        limit: int = 10_000,
        among: Processes = ALONE,
        *,
        scores: Sequence[Score] | None = None,
        replicates: int | None = None,
        training: ImageData | None = None,
        reference: Reference | None = None,
        shape: tuple[Resolution, int] = (32, 3),
        asked: int | None = None,
    ) -> None:
        if data is not None:
            check_counts(min(len(data), limit))
            shape = data.resolution, data.channels
        self.extractor, self.among, self.reference = extractor, among, reference
        self.training = training or data
        dims = parts_of(extractor, *shape)
        statistics: set[str] = set()
        if reference is not None:
            own = extractor.name, extractor.dims, dims.get(SPATIAL), extractor.digest
            reference.check_extractor(*own)
            statistics = {*reference.parts}
        there = Available(extractor, {*dims}, data is not None, statistics)
        self._named = scores is not None
        self.scores = there.default() if scores is None else tuple(scores)
        there.check(self.scores)
        self._check_training()
        if asked is not None:
            there_are = LEAST_REAL + asked if data is None else min(len(data), limit)
            check_counts(there_are, asked, self.scores)
        widest = max(
            (dims.get(part, 0) for score in self.scores for part in score.needs), default=0
        )
        usual = FEW if widest >= WIDE else REPLICATES
        self.replicates = usual if replicates is None else replicates
        self._real: RealImages | RealStatistics
        if data is not None:
            self._real = RealImages(extractor, data, limit, self.scores, among)
        elif reference is not None:
            self._real = RealStatistics(reference)
        else:
            raise OvertoneError("there is nothing to compare with: give data or a reference.")
        self.accuracy = None if held_out is None else accuracy_of(extractor, held_out, among)

    def _check_training(self) -> None:
        """Raises `OvertoneError` where memorisation can't be told."""
        if any(NEAREST in score.needs for score in self.scores):
            if self.training is None:
                raise OvertoneError("memorisation needs the training images, not statistics.")
            check_training(self.training)

    @property
    def real(self) -> Tensor:
        """The features of the real images, (images, dims)."""
        return self._real.vectors

    @property
    def real_distance(self) -> float | None:
        """The Fréchet distance between two halves of the real images."""
        return self._real.facts.real_frechet_distance

    @property
    def real_recall(self) -> float | None:
        """The recall of one half of the real images by the other."""
        return self._real.facts.real_recall

    def __call__(self, batches: Iterable[tuple[Any, ...]], made_with: Mapping[str, Any]) -> Report:
        """The report on uint8 images and the classes asked for, batch by batch.

        A batch is (pixels, class labels or None), or has behind them a dictionary of further parts,
        (batch, dims) by name. Of several processes each gives its share of the images
        (`Processes.share`) and gets the whole report. `made_with` goes into the report as it is.
        Raises `OvertoneError` for fewer than 4 images, which have no third neighbour.
        """
        needed = {part for score in self.scores for part in score.needs}
        needed |= {CLASSES} | ({PIXELS} if NEAREST in needed else set())
        with contextlib.ExitStack() as stack:
            files: dict[str, FeatureFile] = {}
            for pixels, labels, *more in batches:
                for part, tensor in self._parts(pixels, labels, *more).items():
                    if part in needed:
                        if part not in files:
                            file = FeatureFile(folder(), tensor.shape[1], self.among)
                            files[part] = stack.enter_context(file)
                        files[part].add(tensor)
            parts = {part: files[part].vectors() for part in sorted(files)}
            return self._report(parts, made_with)

    def of_data(self, images: ImageData, made_with: Mapping[str, Any]) -> Report:
        """The report on images of a data set, of which no classes were asked for; their features
        are kept in the cache."""
        needed = {part for score in self.scores for part in score.needs}
        self._check_parts({VECTORS, SPATIAL, LOGITS, NEAREST})
        if needed & {NEAREST}:
            return self(self._batches(images), made_with)
        indices = range(len(images))
        self._check_counts(len(images))
        known = needed & {*by_part(self.extractor(images.fetch([0])[0]))} | {CLASSES}
        parts = features_of(self.extractor, images, indices, known, self.among)
        return self._report(parts, made_with)

    def _check_counts(self, count: int) -> None:
        """Raises `OvertoneError` for fewer images than the scores need."""
        there = len(self.real) if self._real.parts else LEAST_REAL + count
        check_counts(there, count, self.scores)

    def _check_parts(self, parts: set[str]) -> None:
        """Raises `OvertoneError` for a score that was asked for by name and can't be computed."""
        known = parts | ({NEAREST} if PIXELS in parts else set())
        for score in self.scores if self._named else ():
            if not {*score.needs} <= known:
                raise OvertoneError(
                    f"{score.title} can't be told of these images: it needs a model that is asked"
                    " for them. Leave it out of --scores."
                )

    def _batches(self, images: ImageData) -> Iterator[tuple[Any, ...]]:
        mine = self.among.share(range(len(images)))
        for at in range(0, len(mine), BATCH):
            yield images.fetch(mine[at : at + BATCH])[0], None

    def _parts(
        self, pixels: Tensor, labels: Tensor | None, more: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        features = self.extractor(pixels)
        logits = features.logits if self.extractor.knows_classes else None
        parts = by_part(features) | {HITS: hits_of(logits, labels, len(pixels))}
        parts[CLASSES] = torch.full((len(pixels), 1), -1.0)
        if labels is not None:
            parts[CLASSES][:, 0] = labels
        if any(NEAREST in score.needs for score in self.scores):
            parts[PIXELS] = reduced(pixels)
        return parts | dict(more or {})

    def _report(self, parts: dict[str, Vectors], made_with: Mapping[str, Any]) -> Report:
        count = len(next(iter(parts.values()), ()))
        self._check_counts(count)
        self._check_parts({*parts})
        own = self._computed(count, parts, made_with) if self.among.is_main else None
        # What the nearest training images are drawn from is open files, and stays where it is.
        report = self.among.gather(own and replace(own, nearest=None))[0]
        assert report is not None
        return own or report

    def _computed(
        self, count: int, parts: dict[str, Vectors], made_with: Mapping[str, Any]
    ) -> Report:
        nearest = None
        if PIXELS in parts and self.training is not None:
            nearest = nearest_of(parts[PIXELS], self.training)
            parts = parts | {NEAREST: Held(nearest.distances)}
        enough = min(count, len(self.real) if self._real.parts else count) >= LEAST
        replicates = self.replicates if enough else 0
        fake = Sample(parts, replicates)
        real = Sample(self._real.parts, replicates) if self._real.parts else None
        scores, columns = {}, {}
        for score in self.scores:
            if not {*score.needs} <= {*parts}:
                continue  # which `_check_parts` has said, where it was asked for
            known = score.takes_statistics and self.reference is not None
            side = self.reference if known else real
            for measure, values in zip(score.measures, score(side, fake), strict=True):
                if not values[0].isnan():  # of the class accuracy of images without a class
                    scores[measure.name] = _measured(values, measure)
                    columns[measure.name] = values
        return Report(
            images=count,
            scores=scores,
            against=self._real.facts,
            classifier_accuracy=self.accuracy,
            extractor=self.extractor.name,
            extractor_digest=self.extractor.digest,
            made_with=made_with,
            asked=tuple(m.name for score in self.scores for m in score.measures),
            columns=columns,
            nearest=nearest,
        )


def _measured(values: Tensor, measure: Measure) -> Measured:
    return measured(
        values,
        biased=measure.biased,
        squared=measure.squared,
        lowest=measure.lowest,
        highest=measure.highest,
    )


__all__ = ["LEAST_REAL", "Evaluation", "Report", "check_counts"]
