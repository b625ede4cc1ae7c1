"""Settings of the classifier that the metrics are computed on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from overtone.networks.configs.network import Building
from overtone.ranges import Dropout, Size
from overtone.sizes import Resolution


@dataclass(frozen=True)
class ClassifierConfig(Building, family="classifier", kind="Classifier"):
    """Settings of `Classifier`."""

    builds: ClassVar[str] = "overtone.networks.classifier:Classifier"

    resolution: Resolution = 32
    """The height and width of images, in pixels."""
    channels: Size = 3
    """The number of channels of an image."""
    num_classes: Size = 10
    """The number of classes."""
    widths: tuple[Size, ...] = (32, 64, 128)
    """The number of channels at each level. Each level but the last ends in a 2x2 max-pool."""
    num_features: Size = 64
    """The width of the feature vector before the last layer."""
    dropout: Dropout = 0.2
    """The probability that a feature is dropped in training."""
