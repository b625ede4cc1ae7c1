"""Recipes of denoisers: a network under a preconditioning, or several as experts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self

import tyro

from overtone import settings
from overtone.data.rules import Crop, Reading
from overtone.data.splits import HELD_OUT_SHARE
from overtone.denoisers.guidance import GuidanceSettings
from overtone.denoisers.intervals import intervals_of
from overtone.denoisers.preconditioning import EDMPreconditioning, Preconditioning
from overtone.networks.configs.network import NetworkConfig
from overtone.processes.gaussian import GaussianProcess, Process
from overtone.processes.schedule import QuantileSchedule, Schedule
from overtone.ranges import Count, Level, Positive, Share, check_fields
from overtone.samplers.loop import SamplingLoop
from overtone.samplers.sampler import Sampler
from overtone.training.configs.recipe import Recipe
from overtone.training.configs.training import (
    Reporting,
    ReportingOptions,
    Training,
    TrainingOptions,
)

TRIED = 8
"""images that a dry run encodes"""


@dataclass(frozen=True)
class ExpertSettings:
    """Which experts there are, counted from 1, the one nearest the clean image."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    boundaries: tuple[Level, ...]
    """The rising noise levels that separate one expert from the next."""
    probabilities: tuple[Share, ...]
    """One number for each expert: the share of its training whose noise levels come from its own
    interval. The rest come from all intervals."""
    shapes: Literal["published", "same"] = "same"
    """Give each expert's iU-Net its own published ratio of convolution to attention (published), or
    give all experts the recipe's network (same)."""
    networks: Annotated[tuple[NetworkConfig, ...], tyro.conf.Suppress] = ()
    """A network for each expert, instead of the recipe's."""

    def __post_init__(self) -> None:
        check_fields(self)
        intervals_of(self.boundaries)
        for name in ("probabilities", "networks"):
            entries = getattr(self, name)
            if len(entries) != self.count and (entries or name == "probabilities"):
                raise ValueError(f"{name} has {len(entries)} entries for {self.count} experts")

    @property
    def count(self) -> int:
        return len(self.boundaries) + 1


@dataclass(frozen=True)
class DenoisingRecipe(Recipe, kind="denoising"):
    """Everything that decides what the training of a denoiser makes.

    The command line changes the settings of the recipe's network, preconditioning, schedule,
    process and sampler. Parts of another kind are chosen in a recipe file, such as the
    `recipe.json` of any run.
    """

    makes: ClassVar[str] = "overtone.training.denoising:DenoisingTask"
    trains: ClassVar[str] = "overtone.training.train:train_denoiser"

    about: Annotated[str, tyro.conf.Suppress]
    """What the recipe is for, and what it needs."""
    network: NetworkConfig
    """The network and its settings."""
    data: str = ""
    """The training images: builtin:digits, builtin:glyphs, builtin:photos, fashion-mnist, a folder
    or zip of images, hf:..., or a directory of latents."""
    init: str = ""
    """The model whose weights training begins with, where they fit: a pipeline, a run, one of its
    checkpoints, a diffusers pipeline or a file of published weights. If left out, weights are
    random."""
    class_conditional: bool = False
    """Train with the class labels of the data."""
    label_dropout: Share = 0.0
    """The share of images that are trained on without their class label, so that classifier-free
    guidance can be used."""
    mirror: bool = False
    """Flip half of the images left to right."""
    augmentation: Share = 0.0
    """The probability of each of EDM's non-leaking augmentations. The network is told of them."""
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
    preconditioning: Preconditioning = field(default_factory=EDMPreconditioning)
    """How the network becomes a denoiser: by EDM's preconditioning, or by a VP, VE or flow
    network's."""
    schedule: Schedule = field(default_factory=QuantileSchedule)
    """The distribution of noise levels in training."""
    process: Process = field(default_factory=GaussianProcess)
    """What an image becomes at a noise level: the image with white noise, or a relay's blurred
    patches with block noise."""
    first: str = ""
    """The first stage that is saved with a relay's second stage: a model, or the run of a recipe.
    If left out, none is saved."""
    weighting: Annotated[Preconditioning | None, tyro.conf.Suppress] = None
    """The preconditioning whose c_out^-2 weights the loss over noise levels. If it is not given, it
    is the recipe's own, under which the loss is the plain error of the network's output."""
    sampler: SamplingLoop = field(default_factory=Sampler)
    """The sampler that is saved with the model and draws the grids of samples."""
    guidance: GuidanceSettings = field(default_factory=GuidanceSettings)
    """The guidance that is saved with the model and used for the grids of samples."""
    experts: ExpertSettings | None = None
    """Train several networks, each for an interval of noise levels. If it is not given, one network
    is trained for all of them."""
    vae: str = ""
    """Train on the latents of this VAE: a directory, the run of a VAE's recipe, or a repository of
    the Hub. If left out, the model is trained on pixels."""
    scaling_factor: Positive | None = None
    """The scaling factor of the VAE's latents, where its config.json has none."""
    encoded_images: Count | None = None
    """Encode only this many images, spread over the data. Endless data needs it."""
    training: TrainingOptions = field(default_factory=Training)
    reporting: ReportingOptions = field(default_factory=Reporting)

    def __post_init__(self) -> None:
        super().__post_init__()
        Reading(background=self.background)
        if self.augmentation and self.mirror:
            raise ValueError("augmentation flips images already: leave mirror out")
        if self.augmentation and self.vae:
            raise ValueError("augmentation is of images, not of their latents: leave it out")
        if self.process.clock not in (None, self.schedule):
            raise ValueError(
                "schedule and process.schedule differ, and the blur uses the time of training: set"
                " both alike"
            )
        if self.first and self.process.upscale == 1:
            raise ValueError("only a relay has a first stage: leave `first` out")
        if self.experts is not None:
            for number in range(1, self.experts.count + 1):
                self.expert(number)

    def tried(self) -> Self:
        if not self.vae:
            return self
        few = min(TRIED, self.encoded_images or TRIED)
        reporting = replace(self.reporting, held_out_images=1)
        return replace(self, encoded_images=few, reporting=reporting)

    @property
    def reading(self) -> Reading:
        """What is done to pictures that are not what is wanted."""
        return Reading(self.skip_bad_images, self.background, self.crop)

    @property
    def num_experts(self) -> int:
        return 0 if self.experts is None else self.experts.count

    @property
    def network_name(self) -> str:
        many = f"{self.num_experts} x " if self.experts is not None else ""
        return many + self.network.kind

    def expert(self, number: int) -> Expert:
        """What expert `number`, counted from 1, is and trains on.

        Raises `ValueError` for a number that is none, and for an interval without training.
        """
        experts = self.experts
        if experts is None:
            raise ValueError("this recipe has one network, and no experts")
        if not 1 <= number <= experts.count:
            raise ValueError(f"the experts are numbered 1 to {experts.count}, not {number}")
        low, high = intervals_of(experts.boundaries)[number - 1]
        shares = self.schedule.drawn_below(low), self.schedule.drawn_below(high)
        if not shares[0] < shares[1]:
            raise ValueError(
                f"expert {number} has nothing to learn: no noise level of training lies in its"
                f" interval, sigma {low:g} to {high:g}"
            )
        network = experts.networks[number - 1] if experts.networks else self.network
        for name in ("resolution", "channels", "learns_variance"):
            own, wanted = (getattr(config, name) for config in (network, self.network))
            if own != wanted:
                raise ValueError(
                    f"{name} of expert {number} is {own}, of the recipe's network {wanted}: they"
                    " have to be alike"
                )
        if experts.shapes == "published":
            try:
                network = network.for_expert(number, experts.count)
            except ValueError as error:
                raise ValueError(f"{error}: choose --experts.shapes same") from None
        return Expert(network, (low, high), shares, experts.probabilities[number - 1])

    @property
    def loss_weighting(self) -> Preconditioning:
        """The preconditioning whose c_out^-2 weights the loss."""
        return self.weighting or self.preconditioning

    def identity(self) -> dict[str, Any]:
        """The settings that the weights depend on: a run goes on only with the same ones. The data
        are known by their contents, not by their name."""
        recipe = settings.dump(self) | {"training": self.training.identity()}
        for free in (
            "about",
            "kind",
            "reporting",
            "sampler",
            "guidance",
            "skip_bad_images",
            "background",
            "crop",
            "grey",
            "held_out_share",
            "data",
            "init",
            "first",
            "experts",
        ):
            del recipe[free]
        for free in ("vae", "scaling_factor", "encoded_images"):  # the latents themselves tell
            del recipe[free]
        return recipe


@dataclass(frozen=True)
class Expert:
    """One of a recipe's networks and what it trains on; by itself it is for all noise levels."""

    network: Any
    interval: tuple[float, float] = (0.0, math.inf)
    """The interval of noise levels that the expert is for."""
    shares: tuple[float, float] = (0.0, 1.0)
    """The interval as times of the training schedule."""
    probability: float = 1.0
    """The share of training on the interval rather than on all noise levels."""
