"""The recipe of the classifier that the metrics look through."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from overtone import settings
from overtone.data.rules import Reading
from overtone.data.splits import HELD_OUT_SHARE
from overtone.networks.configs.classifier import ClassifierConfig
from overtone.ranges import Degrees, Part, Share, check_fields
from overtone.training.configs.recipe import Recipe
from overtone.training.configs.training import Reporting, Training


@dataclass(frozen=True)
class Distortion:
    """How images are moved, turned and stretched while a classifier trains, all uniform."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    degrees: Degrees = 12.0
    """Rotate images by up to this angle, in degrees."""
    stretch: Part = 0.12
    """Stretch images on each axis by up to this share."""
    shift: Share = 0.1
    """Move images by up to this share of their width."""
    smoothing: Part = 0.1
    """The amount of label smoothing, in [0, 1)."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ClassifierRecipe(Recipe, kind="classifier"):
    """Everything that decides what the training of a classifier makes."""

    makes: ClassVar[str] = "overtone.training.classifier:ClassifierTask"

    data: str
    """The data whose classes the classifier learns."""
    network: ClassifierConfig
    """The classifier's settings."""
    objective: Distortion = field(default_factory=Distortion)
    """The distortions of the training images."""
    reading: Reading = field(default_factory=Reading)
    """How pictures become images of the wanted size and colours."""
    held_out_share: Share = HELD_OUT_SHARE
    """The share of the images, at most 2,000 of them, that is not trained on where the data have no
    test split: the held-out loss is measured on it. 0 trains on all images."""
    training: Training = field(
        default_factory=lambda: Training(
            total_images=60_000,
            batch_size=128,
            lr=2e-3,
            lr_rampup_images=2_000,
            lr_rampdown_images=40_000,
            ema_halflife_images=2_000,
            ema_rampup_ratio=None,
            precision="fp32",
        )
    )
    reporting: Reporting = field(
        default_factory=lambda: Reporting(report_images=5_000, checkpoint_images=60_000, keep=1)
    )
    about: str = "the classifier of a data set, whose features the metrics are computed on"

    def identity(self) -> dict[str, Any]:
        """The settings that the weights depend on, the data aside."""
        recipe = settings.dump(self) | {"training": self.training.identity()}
        for free in ("about", "kind", "reporting", "reading", "held_out_share", "data"):
            del recipe[free]
        return recipe
