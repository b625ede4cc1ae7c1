"""The kinds of features that images are compared by: settings, which say how they are opened.

A registered kind of one's own takes the same way as the built-in ones. Nothing here imports torch
before an extractor is opened.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from overtone.data.rules import Reading
from overtone.errors import OvertoneError
from overtone.ranges import Seed
from overtone.registry import Kind
from overtone.sizes import Resolution

if TYPE_CHECKING:
    from overtone.metrics.features import Extractor


class FeatureSettings(Kind, ABC, family="extractor", home="overtone.metrics"):
    """Settings that an `Extractor` is opened from."""

    needs_classes: ClassVar[bool] = False
    """Whether the features come from a classifier of the data, which need two classes or more."""
    takes_weights: ClassVar[bool] = False
    """Whether the settings have a field `weights`."""

    @abstractmethod
    def open(
        self, data: str, resolution: int, channels: int, *, skip_bad: bool = False
    ) -> Extractor:
        """The extractor for images of a size, to be compared with those of `data`. Raises
        `OvertoneError` where it can't be had."""

    def open_for(
        self, data: str, resolution: Resolution, channels: int, reading: Reading
    ) -> Extractor:
        """The same, told how the data's pictures are read; most extractors do not look at them."""
        own: Any = resolution
        return self.open(data, own, channels, skip_bad=reading.skip_bad)


def features_by_name(name: str, weights: str | None = None) -> FeatureSettings:
    """The settings of a kind. Raises `OvertoneError` for a name that is none, and for weights where
    the kind takes none."""
    kind: Any = FeatureSettings.family.find(name)
    if weights is None:
        return kind()
    if not kind.takes_weights:
        raise OvertoneError(f"--extractor-weights: the extractor {name} takes no weights.")
    return kind(weights=weights)


@dataclass(frozen=True)
class ClassifierFeatures(FeatureSettings, kind="classifier"):
    """A classifier trained on the real images (`metrics.classifier`)."""

    needs_classes: ClassVar = True

    def open(
        self, data: str, resolution: int, channels: int, *, skip_bad: bool = False
    ) -> Extractor:
        return self.open_for(data, resolution, channels, Reading(skip_bad))

    def open_for(
        self, data: str, resolution: Resolution, channels: int, reading: Reading
    ) -> Extractor:
        own = pkgutil.resolve_name("overtone.training.classifier:classifier_of")
        return own(data, resolution, channels, reading)


@dataclass(frozen=True)
class InceptionFeatures(FeatureSettings, kind="inception"):
    """The Inception network of the FID (`metrics.inception`)."""

    takes_weights: ClassVar = True

    # No file may say which file is read.
    weights: str | None = field(default=None, metadata={"saved": False})
    """A file of torch-fidelity's weights. If it is not given, they are downloaded."""

    def open(
        self, data: str, resolution: int, channels: int, *, skip_bad: bool = False
    ) -> Extractor:
        from pathlib import Path

        from overtone.metrics.inception import InceptionExtractor

        return InceptionExtractor(None if self.weights is None else Path(self.weights))


@dataclass(frozen=True)
class DinoFeatures(FeatureSettings, kind="dinov2"):
    """DINOv2's class token (`metrics.dinov2`)."""

    takes_weights: ClassVar = True

    # No file may say which file is read.
    weights: str | None = field(default=None, metadata={"saved": False})
    """A directory, repository or file of weights. If it is not given, it is the repository of
    ViT-L/14."""

    def open(
        self, data: str, resolution: int, channels: int, *, skip_bad: bool = False
    ) -> Extractor:
        from overtone.metrics.dinov2 import DinoExtractor

        return DinoExtractor(self.weights)


@dataclass(frozen=True)
class RandomFeatures(FeatureSettings, kind="random"):
    """An untrained network (`metrics.untrained`)."""

    seed: Seed = 0
    """The seed of the extractor's random weights."""

    def open(
        self, data: str, resolution: int, channels: int, *, skip_bad: bool = False
    ) -> Extractor:
        from overtone.metrics.untrained import RandomExtractor

        return RandomExtractor(channels, self.seed)
