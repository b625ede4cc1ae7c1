"""A recipe: the settings that train a model from its data to a saved pipeline, and its trainer."""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
import tyro
from PIL.Image import Image

from overtone import precision, settings, storage
from overtone.data import ImageData, held_out, open_data, to_unit
from overtone.data.latents import LatentData, encode, fingerprint_of, is_latents, latents_index
from overtone.data.shards import TEST_FOLDER
from overtone.denoisers import (
    PRECONDITIONERS,
    DenoiserSettings,
    EDMSettings,
    GuidanceSettings,
    VPSettings,
)
from overtone.denoisers.experts import intervals_of
from overtone.errors import OvertoneError
from overtone.launch import processes
from overtone.networks import NETWORKS, IUNetConfig
from overtone.networks.iunet import inception_heads
from overtone.networks.kinds import AnyNetwork
from overtone.networks.vae import VAE
from overtone.pipelines import (
    DiffiTPipeline,
    ImagePipeline,
    LatentDiffiTPipeline,
    RelayPipeline,
)
from overtone.pipelines.base import grid
from overtone.processes import (
    AnyProcess,
    AnySchedule,
    DiscreteSchedule,
    GaussianProcess,
    QuantileSchedule,
    RelayProcess,
)
from overtone.samplers import AncestralSampler, AnySampler, Sampler
from overtone.training.augment import CONDITIONS
from overtone.training.loop import Reporting, Trainer, Training
from overtone.training.objectives import DenoisingObjective, Weighting
from overtone.training.rundir import check_made, open_pipeline
from overtone.training.vae import VAERecipe, open_vae, vae_trainer_of

GRID_ROWS = 8


@dataclass(frozen=True)
class ExpertSettings:
    """Which experts there are, counted from 1, the one nearest the clean image."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    boundaries: tuple[float, ...]
    """noise levels between one expert and the next, rising"""
    probabilities: tuple[float, ...]
    """of each expert: the share of its training drawn from its own interval of noise levels; the
    rest is drawn from all"""
    shapes: Literal["published", "same"] = "same"
    """published: each expert's iU-Net has its own ratios of convolution to attention; same: all
    have the recipe's network"""
    networks: Annotated[tuple[AnyNetwork, ...], tyro.conf.Suppress] = ()
    """of each expert: a network of its own, instead of the recipe's"""

    def __post_init__(self) -> None:
        intervals_of(self.boundaries)
        for name in ("probabilities", "networks"):
            entries = getattr(self, name)
            if len(entries) != self.count and (entries or name == "probabilities"):
                raise ValueError(f"{name} has {len(entries)} entries for {self.count} experts")
        if not all(0 <= p <= 1 for p in self.probabilities):
            raise ValueError(f"probabilities are in [0, 1], not {self.probabilities}")

    @property
    def count(self) -> int:
        return len(self.boundaries) + 1


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run makes. Each field is an option of the command.

    Which kind of network, denoiser and schedule it is (their `kind`) is the recipe's to say: of
    those of another kind, write a recipe file, `recipe.json` of any run being one.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    about: Annotated[str, tyro.conf.Suppress]
    """what it is for, and what it needs"""
    network: AnyNetwork
    data: str = ""
    """builtin:digits, builtin:glyphs, fashion-mnist, a folder or zip of images, hf:..., or a
    directory of latents"""
    class_conditional: bool = False
    """train with the data's classes"""
    label_dropout: float = 0.0
    """share of images trained without their class, for guidance"""
    mirror: bool = False
    """flip half of the images left to right"""
    augmentation: float = 0.0
    """probability of each of EDM's non-leaking augmentations, which the network is told of"""
    skip_bad_images: bool = False
    """leave out images that can't be read or are too small, instead of stopping"""
    denoiser: DenoiserSettings = field(default_factory=EDMSettings)
    """what stands around the network: EDM's preconditioning, or a VP or VE network's"""
    schedule: AnySchedule = field(default_factory=QuantileSchedule)
    """distribution of the noise levels in training"""
    process: AnyProcess = field(default_factory=GaussianProcess)
    """what an image becomes at a noise level: white noise on it, or a relay's blur and blocks"""
    first: str = ""
    """of a relay, the first stage that is saved with it: a model, or the run of its recipe"""
    weighting: Weighting = "edm"
    """of the loss over noise levels: edm, or eps, as of a network that predicts the noise"""
    sampler: AnySampler = field(default_factory=Sampler)
    """sampler saved with the pipeline, and of the grids"""
    guidance: GuidanceSettings = field(default_factory=GuidanceSettings)
    """guidance saved with the pipeline, and of the grids"""
    experts: ExpertSettings | None = None
    """train several networks, each for an interval of noise levels; none: one for all"""
    vae: str = ""
    """train on the latents of this VAE: a directory, the run of a VAE's recipe, or a repository of
    the Hub; none: on pixels"""
    scaling_factor: float | None = None
    """of the VAE's latents, where its config.json has none"""
    encoded_images: int | None = None
    """encode only so many images, spread over the data; endless data needs it"""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    reporting: Annotated[Reporting, tyro.conf.arg(name="")] = field(default_factory=Reporting)
    kind: Literal["diffusion"] = "diffusion"

    def __post_init__(self) -> None:
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout must be in [0, 1], not {self.label_dropout}")
        if not 0 <= self.augmentation <= 1:
            raise ValueError(f"augmentation must be in [0, 1], not {self.augmentation}")
        if self.augmentation and self.mirror:
            raise ValueError("augmentation flips images already: leave mirror out")
        if self.augmentation and self.vae:
            raise ValueError("augmentation is of images, not of their latents: leave it out")
        if isinstance(self.process, RelayProcess):
            if self.schedule != self.process.schedule:
                raise ValueError(
                    "schedule and process.schedule differ: the blur has training's time"
                )
        elif self.first:
            raise ValueError("a first stage is what a relay goes on from: leave it out")
        if self.experts is not None:
            for number in range(1, self.experts.count + 1):
                self.expert(number)

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
        for name in ("resolution", "channels", "learned_variance"):
            own, wanted = (getattr(config, name, False) for config in (network, self.network))
            if own != wanted:
                raise ValueError(
                    f"{name} of expert {number} is {own}, of the recipe's network {wanted}: they"
                    " have to be alike"
                )
        if experts.shapes == "published":
            if not isinstance(network, IUNetConfig) or network.inception_heads:
                raise ValueError(
                    "the published shapes are an IUNet's, and give its inception_heads: choose"
                    " --experts.shapes same"
                )
            heads = inception_heads(network.widths, network.head_channels, number, experts.count)
            network = dataclasses.replace(network, inception_heads=heads)
        return Expert(network, (low, high), shares, experts.probabilities[number - 1])

    def identity(self) -> dict[str, Any]:
        """The settings that the weights depend on: a run goes on only with the same ones."""
        recipe = settings.dump(self) | {"training": self.training.identity()}
        for free in (
            "about",
            "kind",
            "reporting",
            "sampler",
            "guidance",
            "skip_bad_images",
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
    """noise levels"""
    shares: tuple[float, float] = (0.0, 1.0)
    """the interval as times of training"""
    probability: float = 1.0
    """of training on the interval rather than on all"""


class Material(NamedTuple):
    """What a recipe trains on."""

    data: ImageData
    held_out: ImageData | None
    vae: VAE | None


def material_of(recipe: Recipe | VAERecipe, *, show: bool = True) -> Material:
    """The data of a recipe, opened and checked, and the VAE under which it will be encoded."""
    if not recipe.data:
        raise OvertoneError(
            "this recipe has no data of its own: pass --data FOLDER, a zip, or hf:OWNER/NAME."
        )
    vae = None
    if isinstance(recipe, Recipe) and recipe.vae:
        vae = open_vae(recipe.vae, recipe.scaling_factor)
    return Material(*data_of(recipe, vae, show=show and processes().is_main), vae)


def trainer_of(
    recipe: Recipe | VAERecipe,
    *,
    expert: int | None = None,
    material: Material | None = None,
    show: bool = True,
) -> Trainer:
    """The trainer of a recipe, or of one of its experts: data opened and checked, the network
    built. An expert trains in this process alone; `material` is there if it was opened before."""
    data, test, vae = material or material_of(recipe, show=show)
    show = show and processes().is_main
    if isinstance(recipe, VAERecipe):
        return vae_trainer_of(recipe, data, test, show=show)
    own, facts = Expert(recipe.network), dict[str, Any]()
    written, identity = settings.dump(recipe), recipe.identity()
    if (expert is None) != (recipe.experts is None):
        raise OvertoneError(
            "this recipe has one network, and no experts."
            if recipe.experts is None
            else "this recipe trains experts: say which, --expert 1, or none for all of them."
        )
    if recipe.experts is not None and expert is not None:
        try:
            own = recipe.expert(expert)
        except ValueError as error:
            raise OvertoneError(f"{error}.") from None
        low, high = own.interval
        facts = {
            "expert": f"{expert} of {recipe.experts.count}",
            "its noise levels": f"{low:.4g} to {high:.4g}",
            "trained on them": own.probability,
        }
        recipe = dataclasses.replace(recipe, network=own.network, experts=None)
        identity = recipe.identity() | facts
    if recipe.class_conditional and not data.num_classes:
        raise OvertoneError(
            f"{recipe.data} has no classes: sort its images into sub-folders,"
            " or pass --no-class-conditional."
        )
    plan = recipe.training
    if show and plan.lr_rampup_images + plan.lr_rampdown_images > plan.total_images:
        print(
            f"the learning rate never reaches {plan.lr}: its ramps, {plan.lr_rampup_images:,} up"
            f" and {plan.lr_rampdown_images:,} images down, are longer than the run.",
            file=sys.stderr,
        )
    num_classes = data.num_classes if recipe.class_conditional else 0
    config = network_of(recipe, num_classes)
    hybrid = getattr(config, "learned_variance", False)
    _check_steps(recipe, hybrid)
    torch.manual_seed(recipe.training.seed)
    try:
        network = NETWORKS[config.kind](config).to_fast_layout()
    except ValueError as error:
        raise OvertoneError(f"network settings: {error}.") from None
    first = _first_of(recipe)
    if vae is not None:
        data, test = encoded(recipe, vae, data, test, show=show)
        identity["latents"] = data.facts()

    def pipeline(denoiser: Any) -> ImagePipeline:
        kind = ImagePipeline
        if config.kind == "DiffiTUNet" and vae is None:
            kind = DiffiTPipeline
        if config.kind == "DiffiTTransformer" and vae is not None:
            kind = LatentDiffiTPipeline
        if isinstance(recipe.process, RelayProcess):
            kind = RelayPipeline
        pipe = kind(
            denoiser.network,
            recipe.sampler,
            denoiser=recipe.denoiser,
            process=recipe.process,
            # Without a null class there is nothing to guide with.
            guidance=recipe.guidance if num_classes and recipe.label_dropout else None,
            vae=vae,
            class_names=data.class_names if num_classes else (),
            data=data.name if is_latents(recipe.data) else recipe.data,
            training=trained(),
            precision=recipe.training.precision,
        )
        if isinstance(pipe, RelayPipeline):
            pipe.first = first
        return pipe

    def trained() -> dict[str, int | float | str]:
        training = recipe.training
        return {
            "images seen": trainer.progress.images,
            "batch size": training.batch_size,
            "learning rate": training.lr,
            "label dropout": recipe.label_dropout,
            "EMA half-life in images": training.ema_halflife_images,
            "seed": training.seed,
        } | facts

    def picture(denoiser: Any) -> Image:
        columns = min(num_classes, 10) or GRID_ROWS
        # Column k shows class k: the seeds count through the classes, of which the first 10 show.
        rows = [range(r * (num_classes or columns), 10**9)[:columns] for r in range(GRID_ROWS)]
        seeds = [seed for row in rows for seed in row]
        pipe, labels = pipeline(denoiser), None
        if isinstance(pipe, RelayPipeline) and first is None:  # real images, made small
            real = test or data
            pixels, classes = real.fetch(real.spread(len(seeds)))
            pipe.first = F.avg_pool2d(to_unit(pixels), pipe.process.patch)
            seeds, labels = list(range(len(seeds))), classes.tolist() if num_classes else None
        parts = [batch.images for batch in pipe.stream(seeds, labels)]
        return grid(torch.cat(parts), columns, gap=1)

    objective = DenoisingObjective(
        schedule=recipe.schedule,
        process=recipe.process,
        sigma_data=getattr(recipe.denoiser, "sigma_data", 0.5),
        weighting=recipe.weighting,
        num_classes=num_classes,
        label_dropout=recipe.label_dropout,
        mirror=recipe.mirror and vae is None,  # mirrored latents are data of their own
        augmentation=recipe.augmentation,
        hybrid=hybrid,
        bounded=vae is None,
        interval=own.shares,
        interval_probability=own.probability,
    )
    trainer = Trainer(
        model=PRECONDITIONERS[recipe.denoiser.kind](network, recipe.denoiser),
        objective=objective,
        data=data,
        held_out=test,
        identity=identity,
        recipe=written,
        training=recipe.training,
        reporting=recipe.reporting,
        export=lambda denoiser, folder: pipeline(denoiser).write_into(folder),
        # By itself an expert makes no images: it knows its own interval, or hardly more.
        picture=picture if expert is None else None,
        show=show,
        alone=expert is not None,
    )
    pipeline(trainer.model)  # so that what it can't be saved with is told of now
    return trainer


def network_of(recipe: Recipe, num_classes: int) -> Any:
    """The settings of the network as it will be trained: those of the recipe, and what follows from
    the data and the augmentation. Raises `OvertoneError` where they contradict each other."""
    augmented = getattr(recipe.network, "augment_channels", None)
    if augmented and not recipe.augmentation:
        raise OvertoneError("--network.augment-channels follows from --augmentation: set that.")
    if augmented is None and recipe.augmentation:
        raise OvertoneError(f"a {recipe.network.kind} takes no conditions of --augmentation.")
    if recipe.network.num_classes not in (0, num_classes):
        raise OvertoneError(
            f"--network.num-classes is {recipe.network.num_classes}, but {recipe.data} has"
            f" {num_classes} classes to train with: leave it out."
        )
    changes = {"num_classes": num_classes}
    if recipe.augmentation:
        changes["augment_channels"] = CONDITIONS
    try:
        return dataclasses.replace(recipe.network, **changes)  # type: ignore[arg-type]
    except ValueError as error:
        raise OvertoneError(f"network settings: {error}.") from None


def _first_of(recipe: Recipe) -> ImagePipeline | None:
    if not recipe.first:
        return None
    otherwise = "--first MODEL, or --first '' to train the second stage by itself"
    check_made(recipe.first, "the first stage", otherwise)
    return open_pipeline(recipe.first)


def _check_steps(recipe: Recipe, learned_variance: bool) -> None:
    """Where a schedule has numbered steps, all parts have to count them alike."""
    schedule, denoiser, sampler = recipe.schedule, recipe.denoiser, recipe.sampler
    if learned_variance and not (
        isinstance(schedule, DiscreteSchedule) and isinstance(denoiser, VPSettings)
    ):
        raise OvertoneError(
            "network settings: learned_variance is of a VP denoiser on the steps of a discrete"
            " schedule: choose both in the recipe, or --no-network.learned-variance."
        )
    if not isinstance(schedule, DiscreteSchedule):
        return
    if isinstance(denoiser, VPSettings):
        if denoiser.schedule != schedule:
            raise OvertoneError(
                "--schedule and --denoiser.schedule differ: the network would be told of other"
                " steps than it is trained on."
            )
        if denoiser.time_scale != len(schedule.levels) - 1:
            raise OvertoneError(
                f"--denoiser.time-scale is {denoiser.time_scale:g}, and the number of the last of"
                f" {len(schedule.levels)} steps is {len(schedule.levels) - 1}."
            )
    if isinstance(sampler, AncestralSampler) and sampler.schedule != schedule:
        raise OvertoneError(
            "--schedule and --sampler.schedule differ: DDPM's sampler takes the steps that the"
            " network is trained on."
        )


def images_of(
    name: str, resolution: int, channels: int, *, skip_bad: bool = False, show: bool = True
) -> tuple[ImageData, ImageData | None]:
    """The images of `name` and its held-out ones, and a word on what was done to read them."""
    if is_latents(name):
        raise OvertoneError(f"{name} holds latents: pass --vae, the VAE that they were made with.")
    data = open_data(name, resolution, channels, skip_bad=skip_bad)
    if show and data.left_out:
        print(
            f"left out {len(data.left_out)} images. The first: {data.left_out[0]}", file=sys.stderr
        )
    if show and data.conversions:
        done = "; ".join(f"{what}: {count:,} images" for what, count in data.conversions.items())
        print(f"{name}: {done}", file=sys.stderr)
    test = held_out(name, resolution, channels, skip_bad=skip_bad)
    if test is not None and test.class_names != data.class_names:
        raise OvertoneError(
            f"{name}: the classes of the test split ({', '.join(test.class_names[:5])}) are"
            f" not those of the training split ({', '.join(data.class_names[:5])}): labels would"
            " not mean the same."
        )
    return data, test


def data_of(
    recipe: Recipe | VAERecipe, vae: VAE | None, *, show: bool = True
) -> tuple[ImageData, ImageData | None]:
    """What a recipe trains on and what is held out: images, not encoded yet if there is a VAE, or
    the latents in a directory. Raises `OvertoneError` if they do not fit the network or the VAE."""
    config: Any = recipe.network
    size, channels = config.resolution, config.channels
    if vae is not None:
        if vae.channels != channels:
            raise OvertoneError(
                f"the VAE and the network do not belong together: its latents have {vae.channels}"
                f" channels, the network {channels} (--network.channels)."
            )
        size, channels = size * vae.factor, vae.image_channels
        if isinstance(recipe, Recipe) and is_latents(recipe.data):
            return _latents_in(recipe, vae, size)
    return images_of(recipe.data, size, channels, skip_bad=recipe.skip_bad_images, show=show)


def _latents_in(recipe: Recipe, vae: VAE, size: int) -> tuple[LatentData, LatentData | None]:
    """The latents in the directory that a recipe names, made as it wants them."""
    data = LatentData(Path(recipe.data).expanduser())
    facts: list[tuple[str, Any, Any]] = [
        ("the VAE", data.index.vae, vae.digest),
        ("the scaling factor", data.index.scaling_factor, vae.scaling_factor),
        ("the shift factor", data.index.shift_factor, vae.shift_factor),
        ("the resolution of the images", data.index.image_resolution, size),
    ]
    for what, there, here in facts:
        if there != here:
            raise OvertoneError(
                f"{recipe.data} was encoded otherwise: {what} is {there} there, {here} here."
            )
    if recipe.mirror and not data.index.mirrored:
        raise OvertoneError(
            f"{recipe.data} holds no mirrored latents: encode with --mirror, or pass --no-mirror."
        )
    if data.index.mirrored and not recipe.mirror:
        raise OvertoneError(
            f"{recipe.data} holds mirrored latents too: encode without --mirror, or pass --mirror."
        )
    folder = data.folder / TEST_FOLDER
    return data, LatentData(folder) if folder.is_dir() else None


def encoded(
    recipe: Recipe, vae: VAE, images: ImageData, test: ImageData | None, *, show: bool = True
) -> tuple[LatentData, LatentData | None]:
    """The latents of images, from the cache or encoded now; those that are latents stay."""
    if isinstance(images, LatentData):
        return images, cast(LatentData | None, test)
    vae.to(precision.default_device())
    cache = storage.cache_directory() / "latents"
    index = latents_index(images, vae, mirror=recipe.mirror, images=recipe.encoded_images)
    data = encode(images, vae, cache / fingerprint_of(index), index, show=show)
    if test is None:
        return data, None
    index = latents_index(test, vae, images=recipe.reporting.held_out_images)
    return data, encode(test, vae, cache / fingerprint_of(index), index, show=show)
