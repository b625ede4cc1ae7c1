"""Features of a classifier of the very data set.

It needs no download, works at any resolution, and tells apart what is in the images; distances on
its features compare with each other, not with published FIDs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

import torch

from overtone import precision
from overtone.data.images import Pixels, to_unit
from overtone.metrics.features import Extractor, Features
from overtone.networks.classifier import Classifier
from overtone.networks.network import WEIGHTS_FILE

SPATIAL_CHANNELS = 7
"""channels of the last feature map that are kept with their places, as many as sFID has"""


class ClassifierExtractor(Extractor):
    """Features and class scores from the penultimate layer and the head of a `Classifier`, spatial
    features from its last feature map."""

    knows_classes = True

    def __init__(self, network: Classifier, digest: str) -> None:
        self.network = network.eval().to(precision.default_device()).to_fast_layout()
        self.digest = digest
        self.dims = network.config.num_features
        self.name = f"classifier at {network.config.resolution} px"

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """The classifier saved in a directory, its digest the SHA-256 of the weights' file."""
        network = Classifier.from_pretrained(folder)
        digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
        return cls(network, digest[:16])

    @torch.no_grad()
    def __call__(self, pixels: Pixels) -> Features:
        device = next(self.network.parameters()).device
        maps = self.network.body(to_unit(pixels.to(device)))
        vectors = self.network.features_of(maps)
        spatial = maps[:, :SPATIAL_CHANNELS].flatten(1)
        return Features(vectors.cpu(), self.network.head(vectors).cpu(), spatial.cpu())
