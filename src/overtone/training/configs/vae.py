"""Recipes of VAEs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import tyro

from overtone import settings
from overtone.data.rules import Crop, Reading
from overtone.data.splits import HELD_OUT_SHARE
from overtone.networks.configs.vae import VAEConfig
from overtone.ranges import NotNegative, Share
from overtone.training.configs.recipe import Recipe
from overtone.training.configs.training import (
    Reporting,
    ReportingOptions,
    Training,
    TrainingOptions,
)


@dataclass(frozen=True)
class VAERecipe(Recipe, kind="vae"):
    """Everything that decides what the training of a VAE makes."""

    makes: ClassVar[str] = "overtone.training.vae:VAETask"

    about: Annotated[str, tyro.conf.Suppress]
    """What the recipe is for, and what it needs."""
    network: VAEConfig
    data: str = ""
    """The training images: builtin:glyphs, builtin:photos, fashion-mnist, a folder or zip of
    images, or hf:..."""
    init: str = ""
    """The VAE whose weights training begins with, where they fit: a directory, the run of a VAE's
    recipe, or a repository of the Hub. If left out, weights are random."""
    skip_bad_images: bool = False
    """Leave out images that can't be read or are too small, instead of stopping."""
    background: str = "white"
    """The colour that transparent pictures are laid on: a name, such as black, or #rrggbb."""
    crop: Crop = "fit"
    """How a picture is cropped. fit keeps the largest part in its middle that has the proportions
    of the network's images; square keeps the square in its middle; none crops nothing, and pictures
    of other proportions are refused."""
    grey: bool = False
    """Read colour pictures as grey where the network makes grey images, instead of stopping."""
    held_out_share: Share = HELD_OUT_SHARE
    """The share of the images that is not trained on where the data have no test split, so that the
    held-out loss can be measured on it. It is from 0 to 1, and no more than 2,000 images are taken.
    0 trains on all images."""
    kl_weight: NotNegative = 1e-6
    """The weight of the KL divergence of the latents from N(0, 1), summed over their values, beside
    the error of the pixels, averaged over theirs."""
    training: TrainingOptions = field(default_factory=Training)
    reporting: ReportingOptions = field(default_factory=Reporting)

    def __post_init__(self) -> None:
        super().__post_init__()
        Reading(background=self.background)

    @property
    def reading(self) -> Reading:
        """What is done to pictures that are not what is wanted."""
        return Reading(self.skip_bad_images, self.background, self.crop)

    def identity(self) -> dict[str, Any]:
        """The settings that the weights depend on: a run goes on only with the same ones. The data
        are known by their contents, not by their name."""
        recipe = settings.dump(self) | {"training": self.training.identity()}
        pictures = ("data", "skip_bad_images", "background", "crop", "grey", "held_out_share")
        for free in ("about", "kind", "reporting", "init", *pictures):
            del recipe[free]
        return recipe
