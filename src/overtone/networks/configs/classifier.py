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
    """image height and width in pixels"""
    channels: Size = 3
    """channels of the image"""
    num_classes: Size = 10
    """number of classes"""
    widths: tuple[Size, ...] = (32, 64, 128)
    """channels a level; each level but the last ends in a 2x2 max-pool"""
    num_features: Size = 64
    """width of the feature vector before the last layer"""
    dropout: Dropout = 0.2
    """probability of dropping a feature in training"""
