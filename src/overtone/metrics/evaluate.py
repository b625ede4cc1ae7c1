"""An evaluation: images compared with real ones, and everything needed to repeat it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from overtone import storage
from overtone.data.images import ImageData, Pixels
from overtone.errors import OvertoneError
from overtone.launch import ALONE, Processes
from overtone.leftovers import sweep
from overtone.metrics.features import Extractor
from overtone.metrics.scores import frechet_distance, kernel_distance, precision_recall
from overtone.metrics.vectors import FeatureFile, load_features

BATCH = 256
LEAST_REAL, LEAST = 8, 4
"""real images and images to judge, without which there are no third neighbours"""


@dataclass(frozen=True)
class Report:
    """The scores of some images, and what they were computed from."""

    images: int
    frechet_distance: float
    """between the images and the real ones; with Inception's features, the FID"""
    kernel_distance: float
    """squared maximum mean discrepancy; with Inception's features, the KID"""
    precision: float
    recall: float
    recognised: float | None
    """share of images that the classifier takes for the class asked for"""
    real_images: int
    real: str
    resize_rule: str
    real_frechet_distance: float
    """between two halves of the real images, each class split evenly: what a perfect model would
    get with as many images, and as many of each class as they have"""
    real_recall: float
    """of one half by the other"""
    classifier_accuracy: float | None
    """on the held-out split"""
    extractor: str
    extractor_digest: str
    made_with: Mapping[str, Any]
    """where the images come from: seeds, sampler, guidance"""


def check_counts(real: int, asked: int | None = None) -> None:
    """Raises `OvertoneError` for fewer images than the scores need."""
    if real < LEAST_REAL:
        raise OvertoneError(
            f"{real} real images are too few to compare with: {LEAST_REAL} are the least, so"
            " that each of two halves has a third neighbour."
        )
    if asked is not None and asked < LEAST:
        raise OvertoneError(f"{asked} images are too few to evaluate: {LEAST} are the least.")


class Evaluation:
    """Compares images with the real ones of `data`, through one extractor.

    At most `limit` real images are used, evenly spread over an ordered set. The real images'
    statistics, two halves against each other included, are computed once; their features are kept
    in the cache. The work is shared among the processes of a job.
    """

    def __init__(
        self,
        extractor: Extractor,
        data: ImageData,
        held_out: ImageData | None = None,
        limit: int = 10_000,
        among: Processes = ALONE,
    ) -> None:
        self.extractor = extractor
        self.data = data
        self.among = among
        self.folder = storage.cache_directory() / "features"
        count = min(len(data), limit)
        check_counts(count)
        # A fixed shuffle, so that the halves are alike whatever the order of the data.
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        spread = data.spread(count)
        self.real, labels = self._real_features([spread[i] for i in order.tolist()])
        # Every second image of each class: with random halves the distance would mostly be that of
        # the numbers of images in the classes, which samples of given classes do not have.
        by_class = labels.argsort(stable=True)
        first, second = self.real[by_class[0::2]], self.real[by_class[1::2]]
        self.real_distance = frechet_distance(first, second)
        self.real_recall = precision_recall(first, second)[1]
        self.accuracy = None if held_out is None else self._accuracy(held_out)

    def __call__(
        self, batches: Iterable[tuple[Pixels, Tensor | None]], made_with: Mapping[str, Any]
    ) -> Report:
        """The report on uint8 images and the classes asked for, batch by batch.

        Of several processes each gives its share of the images (`Processes.share`) and gets the
        whole report. `made_with` goes into the report as it is. Raises `OvertoneError` for fewer
        than 4 images, which have no third neighbour.
        """
        counted = torch.zeros(2, dtype=torch.int64)  # recognised, asked for
        with FeatureFile(self.folder, self.extractor.dims, self.among) as file:
            for pixels, labels in batches:
                features = self.extractor(pixels)
                file.add(features.vectors)
                if labels is not None and features.logits is not None:
                    counted[0] += (features.logits.argmax(1) == labels).sum()
                    counted[1] += len(labels)
            fake = file.vectors()
            hits, asked = map(sum, zip(*self.among.gather(counted.tolist()), strict=True))
            check_counts(len(self.real), len(fake))
            report = None
            if self.among.is_main:
                report = self._report(fake, hits / asked if asked else None, made_with)
            report = self.among.gather(report)[0]
        assert report is not None
        return report

    def _report(
        self, fake: Tensor, recognised: float | None, made_with: Mapping[str, Any]
    ) -> Report:
        precision, recall = precision_recall(self.real, fake)
        return Report(
            images=len(fake),
            frechet_distance=frechet_distance(self.real, fake),
            kernel_distance=kernel_distance(self.real, fake),
            precision=precision,
            recall=recall,
            recognised=recognised,
            real_images=len(self.real),
            real=self.data.name,
            resize_rule=self.data.resize_rule,
            real_frechet_distance=self.real_distance,
            real_recall=self.real_recall,
            classifier_accuracy=self.accuracy,
            extractor=self.extractor.name,
            extractor_digest=self.extractor.digest,
            made_with=made_with,
        )

    def _real_features(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Features and classes, from the cache or computed now. The class is the file's last
        column."""
        data, extractor = self.data, self.extractor
        what = f"{data.fingerprint} {data.resolution} {data.channels} {extractor.digest} {indices}"
        what, columns = f"{what} and classes", extractor.dims + 1
        kept = self.folder / hashlib.sha256(what.encode()).hexdigest()[:20]
        size = 4 * columns * len(indices)  # a file cut short, by a crash, say, is made again
        if self.among.any(not kept.exists() or kept.stat().st_size != size):
            sweep(self.folder, days=1)
            mine = self.among.share(indices)
            with FeatureFile(self.folder, columns, self.among) as file:
                for at in range(0, len(mine), BATCH):
                    pixels, labels = data.fetch(mine[at : at + BATCH])
                    vectors = extractor(pixels).vectors
                    file.add(torch.cat([vectors, labels[:, None].to(vectors)], dim=1))
                file.vectors()
                if self.among.is_main:
                    file.whole.replace(kept)
                self.among.wait()
        whole = load_features(kept, columns)
        return whole[:, :-1], whole[:, -1]

    def _accuracy(self, data: ImageData) -> float | None:
        mine, hits = self.among.share(range(len(data))), 0
        for at in range(0, len(mine), BATCH):
            pixels, labels = data.fetch(mine[at : at + BATCH])
            logits = self.extractor(pixels).logits
            if logits is None:
                return None
            hits += int((logits.argmax(1) == labels).sum())
        return sum(self.among.gather(hits)) / len(data)
