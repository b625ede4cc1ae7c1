"""Features of images: the penultimate layer of a classifier trained on the data in question.

A classifier of the very data set needs no download, works at any resolution, and tells apart what
is in the images; distances on its features compare with each other, not with published FIDs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor

from overtone import precision
from overtone.data import to_unit
from overtone.data.images import Pixels
from overtone.networks import Classifier
from overtone.networks.network import WEIGHTS_FILE


class Features(NamedTuple):
    """What an extractor says of a batch, on the host."""

    vectors: Float[Tensor, "batch features"]
    logits: Float[Tensor, "batch classes"]


class ClassifierExtractor:
    """Features and class scores of uint8 images, in float32.

    `digest` identifies the weights: numbers from extractors with different digests don't compare.
    """

    def __init__(self, network: Classifier, digest: str) -> None:
        self.network = network.eval().to(precision.default_device()).to_fast_layout()
        self.digest = digest

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """The classifier saved in a directory, its digest the SHA-256 of the weights' file."""
        network = Classifier.from_pretrained(folder)
        digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
        return cls(network, digest[:16])

    @torch.no_grad()
    def __call__(self, pixels: Pixels) -> Features:
        device = next(self.network.parameters()).device
        vectors = self.network.features(to_unit(pixels.to(device)))
        return Features(vectors.cpu(), self.network.head(vectors).cpu())
