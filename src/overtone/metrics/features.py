"""The contract of feature extractors: images in, features out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from overtone.data.images import Pixels


class Features(NamedTuple):
    """What an extractor says of a batch, on the host."""

    vectors: Float[Tensor, "batch features"]
    logits: Float[Tensor, "batch classes"] | None = None
    """class scores"""
    spatial: Float[Tensor, "batch spatial_dims"] | None = None
    """features that keep the place, for the spatial Fréchet distance"""


class Extractor(ABC):
    """Turns uint8 images into feature vectors, in float32.

    `digest` identifies the weights: numbers from extractors with different digests don't compare.
    """

    name: str
    digest: str
    dims: int
    knows_classes: bool = False
    """whether its class scores are of the classes of the data"""

    @abstractmethod
    def __call__(self, pixels: Pixels) -> Features: ...
