"""Features of a classifier of the very data set.

It needs no download, works at any resolution, and tells apart what is in the images; distances on
its features compare with each other, not with published FIDs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

from overtone import precision
from overtone.data.images import Pixels, to_unit
from overtone.metrics.features import Extractor, Features, by_blocks, place_features
from overtone.networks.classifier import Classifier
from overtone.networks.network import WEIGHTS_FILE
from overtone.sizes import shown

BLOCK = 512
"""images at a time"""


class ClassifierExtractor(Extractor):
    """Features and class scores from the penultimate layer and the head of a `Classifier`, spatial
    features from its last feature map."""

    knows_classes = True

    def __init__(self, network: Classifier, digest: str) -> None:
        self.network = network.eval().to(precision.default_device()).to_fast_layout()
        self.digest = digest
        self.dims = network.config.num_features
        self.name = f"classifier at {shown(network.config.resolution)} px"

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """The classifier saved in a directory, its digest the SHA-256 of the weights' file."""
        network = Classifier.from_pretrained(folder)
        digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
        return cls(network, digest[:16])

    def __call__(self, pixels: Pixels) -> Features:
        return by_blocks(self.network, self._extract, pixels, BLOCK)

    def _extract(self, pixels: Pixels) -> Features:
        maps = self.network.body(to_unit(pixels))
        vectors = self.network.features_of(maps)
        return Features(vectors, self.network.head(vectors), place_features(maps))
