"""An evaluation: images compared with real ones, and everything needed to repeat it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from overtone.data import ImageData
from overtone.data.images import Pixels
from overtone.errors import OvertoneError
from overtone.metrics.features import ClassifierExtractor
from overtone.metrics.scores import frechet_distance, precision_recall

BATCH = 256


@dataclass(frozen=True)
class Report:
    """The scores of some images, and what they were computed from."""

    images: int
    frechet_distance: float
    """between the images and the real ones"""
    precision: float
    recall: float
    recognised: float | None
    """share of images that the classifier takes for the class asked for"""
    real_images: int
    real: str
    resize_rule: str
    real_frechet_distance: float
    """between two halves of the real images: what a perfect model of their number would get"""
    real_recall: float
    """of one half by the other"""
    classifier_accuracy: float | None
    """on the held-out split"""
    extractor: str
    extractor_digest: str
    made_with: Mapping[str, Any]
    """where the images come from: seeds, sampler, guidance"""


class Evaluation:
    """Compares images with the real ones of `data`, through one extractor.

    At most `limit` real images are used, evenly spread over an ordered set. The real images'
    statistics, two halves against each other included, are computed once.
    """

    def __init__(
        self,
        extractor: ClassifierExtractor,
        data: ImageData,
        held_out: ImageData | None = None,
        limit: int = 10_000,
    ) -> None:
        self.extractor = extractor
        self.data = data
        count = min(len(data), limit)
        # A fixed shuffle, so that the halves are alike whatever the order of the data.
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        spread = order if data.endless else order * len(data) // count
        self.real = self._features(data, spread.tolist())
        half = count // 2
        first, second = self.real[:half], self.real[half:]
        self.real_distance = frechet_distance(first, second)
        self.real_recall = precision_recall(first, second)[1]
        self.accuracy = None if held_out is None else self._accuracy(held_out)

    def __call__(
        self, batches: Iterable[tuple[Pixels, Tensor | None]], made_with: Mapping[str, Any]
    ) -> Report:
        """The report on uint8 images and the classes asked for, batch by batch.

        `made_with` goes into the report as it is. Raises `OvertoneError` for fewer than 4 images,
        which have no third neighbour.
        """
        vectors, hits, asked = [], 0, 0
        for pixels, labels in batches:
            features = self.extractor(pixels)
            vectors.append(features.vectors)
            if labels is not None:
                hits += int((features.logits.argmax(1) == labels).sum())
                asked += len(labels)
        fake = torch.cat(vectors) if vectors else torch.empty(0)
        if len(fake) < 4:
            raise OvertoneError(f"{len(fake)} images are too few to evaluate: 4 are the least.")
        precision, recall = precision_recall(self.real, fake)
        return Report(
            images=len(fake),
            frechet_distance=frechet_distance(self.real, fake),
            precision=precision,
            recall=recall,
            recognised=hits / asked if asked else None,
            real_images=len(self.real),
            real=self.data.name,
            resize_rule=self.data.resize_rule,
            real_frechet_distance=self.real_distance,
            real_recall=self.real_recall,
            classifier_accuracy=self.accuracy,
            extractor=f"classifier trained on {self.data.name} at {self.data.resolution} px",
            extractor_digest=self.extractor.digest,
            made_with=made_with,
        )

    def _features(self, data: ImageData, indices: list[int]) -> Tensor:
        parts = [indices[i : i + BATCH] for i in range(0, len(indices), BATCH)]
        return torch.cat([self.extractor(data.fetch(part)[0]).vectors for part in parts])

    def _accuracy(self, data: ImageData) -> float:
        hits = 0
        for at in range(0, len(data), BATCH):
            pixels, labels = data.fetch(range(at, min(at + BATCH, len(data))))
            hits += int((self.extractor(pixels).logits.argmax(1) == labels).sum())
        return hits / len(data)
