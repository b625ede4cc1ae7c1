"""A recipe: the settings that train a model from its data to a saved pipeline, and its trainer."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pydantic
import torch
import tyro
from PIL.Image import Image

from overtone import precision, settings, storage
from overtone.data import ImageData, held_out, open_data
from overtone.data.latents import (
    TEST_FOLDER,
    LatentData,
    encode,
    fingerprint_of,
    is_latents,
    latents_index,
)
from overtone.denoisers import (
    PRECONDITIONERS,
    DenoiserSettings,
    EDMSettings,
    GuidanceSettings,
    VPSettings,
)
from overtone.errors import OvertoneError
from overtone.launch import processes
from overtone.networks import (
    NETWORKS,
    ADMConfig,
    DiffiTConfig,
    DiffiTTransformerConfig,
    SongConfig,
)
from overtone.networks.vae import VAE
from overtone.pipelines import DiffiTPipeline, ImagePipeline, LatentDiffiTPipeline
from overtone.pipelines.base import grid
from overtone.processes import AnySchedule, DiscreteSchedule, QuantileSchedule
from overtone.samplers import AnySampler, Sampler
from overtone.training.augment import CONDITIONS
from overtone.training.loop import Reporting, Trainer, Training
from overtone.training.objectives import DenoisingObjective, Weighting
from overtone.training.vae import VAERecipe, open_vae, vae_trainer_of

GRID_ROWS = 8


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run makes. Each field is an option of the command.

    Which kind of network, denoiser and schedule it is (their `kind`) is the recipe's to say: of
    those of another kind, write a recipe file, `recipe.json` of any run being one.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    about: Annotated[str, tyro.conf.Suppress]
    """what it is for, and what it needs"""
    network: Annotated[
        DiffiTConfig | DiffiTTransformerConfig | ADMConfig | SongConfig,
        pydantic.Field(discriminator="kind"),
    ]
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
    weighting: Weighting = "edm"
    """of the loss over noise levels: edm, or eps, as of a network that predicts the noise"""
    sampler: AnySampler = field(default_factory=Sampler)
    """sampler saved with the pipeline, and of the grids"""
    guidance: GuidanceSettings = field(default_factory=GuidanceSettings)
    """guidance saved with the pipeline, and of the grids"""
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

    def identity(self) -> dict[str, Any]:
        """The settings that the weights depend on: a run goes on only with the same ones."""
        recipe = self.training.identity_in(settings.dump(self))
        # Of what is encoded with which VAE the data's fingerprint tells.
        for free in ("sampler", "guidance", "vae", "scaling_factor", "encoded_images"):
            del recipe[free]
        return recipe


def trainer_of(recipe: Recipe | VAERecipe, *, show: bool = True) -> Trainer:
    """The trainer of a recipe: data opened and checked, the network built."""
    if not recipe.data:
        raise OvertoneError(
            "this recipe has no data of its own: pass --data FOLDER, a zip, or hf:OWNER/NAME."
        )
    show = show and processes().is_main
    vae = None
    if isinstance(recipe, Recipe) and recipe.vae:
        vae = open_vae(recipe.vae, recipe.scaling_factor)
        data, test = latents_of(recipe, vae, show=show)
    else:
        size, channels = recipe.network.resolution, recipe.network.channels
        skip = recipe.skip_bad_images
        data, test = images_of(recipe.data, size, channels, skip_bad=skip, show=show)
    if isinstance(recipe, VAERecipe):
        return vae_trainer_of(recipe, data, test, show=show)
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
    augmented = getattr(recipe.network, "augment_channels", None)
    if augmented and not recipe.augmentation:
        raise OvertoneError("--network.augment-channels follows from --augmentation: set that.")
    if augmented is None and recipe.augmentation:
        raise OvertoneError(f"a {recipe.network.kind} takes no conditions of --augmentation.")
    num_classes = data.num_classes if recipe.class_conditional else 0
    if recipe.network.num_classes not in (0, num_classes):
        raise OvertoneError(
            f"--network.num-classes is {recipe.network.num_classes}, but {recipe.data} has"
            f" {num_classes} classes to train with: leave it out."
        )
    changes = {"num_classes": num_classes}
    if recipe.augmentation:
        changes["augment_channels"] = CONDITIONS
    try:
        config: Any = dataclasses.replace(recipe.network, **changes)  # type: ignore[arg-type]
    except ValueError as error:
        raise OvertoneError(f"network settings: {error}.") from None
    torch.manual_seed(recipe.training.seed)
    try:
        network = NETWORKS[config.kind](config).to_fast_layout()
    except ValueError as error:
        raise OvertoneError(f"network settings: {error}.") from None

    def pipeline(denoiser: Any) -> ImagePipeline:
        kind = ImagePipeline
        if config.kind == "DiffiTUNet" and vae is None:
            kind = DiffiTPipeline
        if config.kind == "DiffiTTransformer" and vae is not None:
            kind = LatentDiffiTPipeline
        return kind(
            denoiser.network,
            recipe.sampler,
            denoiser=recipe.denoiser,
            guidance=recipe.guidance if num_classes else None,
            vae=vae,
            class_names=data.class_names if num_classes else (),
            data=data.name,
            training=trained(),
            precision=recipe.training.precision,
        )

    def trained() -> dict[str, int | float | str]:
        training = recipe.training
        return {
            "images seen": trainer.progress.images,
            "batch size": training.batch_size,
            "learning rate": training.lr,
            "label dropout": recipe.label_dropout,
            "EMA half-life in images": training.ema_halflife_images,
            "seed": training.seed,
        }

    def picture(denoiser: Any) -> Image:
        columns = min(num_classes, 10) or GRID_ROWS
        # Column k shows class k: the seeds count through the classes, of which the first 10 show.
        rows = [range(r * (num_classes or columns), 10**9)[:columns] for r in range(GRID_ROWS)]
        seeds = [seed for row in rows for seed in row]
        parts = [batch.images for batch in pipeline(denoiser).stream(seeds)]
        return grid(torch.cat(parts), columns, gap=1)

    objective = DenoisingObjective(
        schedule=recipe.schedule,
        sigma_data=getattr(recipe.denoiser, "sigma_data", 0.5),
        weighting=recipe.weighting,
        num_classes=num_classes,
        label_dropout=recipe.label_dropout,
        mirror=recipe.mirror and vae is None,  # mirrored latents are data of their own
        augmentation=recipe.augmentation,
        hybrid=getattr(config, "learned_variance", False),
        bounded=vae is None,
    )
    if objective.hybrid and not isinstance(recipe.denoiser, VPSettings):
        raise OvertoneError(
            "network settings: learned_variance is of a VP denoiser's steps: choose that in the"
            " recipe, or --no-network.learned-variance."
        )
    if objective.hybrid and not isinstance(recipe.schedule, DiscreteSchedule):
        raise OvertoneError(
            "network settings: learned_variance is of the steps of a discrete schedule: choose that"
            " in the recipe, or --no-network.learned-variance."
        )
    trainer = Trainer(
        model=PRECONDITIONERS[recipe.denoiser.kind](network, recipe.denoiser),
        objective=objective,
        data=data,
        held_out=test,
        identity=recipe.identity(),
        recipe=settings.dump(recipe),
        training=recipe.training,
        reporting=recipe.reporting,
        export=lambda denoiser, folder: pipeline(denoiser).write_into(folder),
        picture=picture,
        show=show,
    )
    return trainer


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


def latents_of(
    recipe: Recipe, vae: VAE, *, show: bool = True
) -> tuple[ImageData, ImageData | None]:
    """The latents that a recipe trains on and the held-out ones: from its directory, from the
    cache, or encoded now. Raises `OvertoneError` if they do not fit the network or the VAE."""
    network = recipe.network
    size = network.resolution * vae.factor
    if vae.channels != network.channels:
        raise OvertoneError(
            f"the VAE and the network do not belong together: its latents have {vae.channels}"
            f" channels, the network {network.channels} (--network.channels)."
        )
    if is_latents(recipe.data):
        data = LatentData(Path(recipe.data).expanduser())
        facts: list[tuple[str, Any, Any]] = [
            ("the VAE", data.index.vae, vae.digest),
            ("the scaling factor", data.index.scaling_factor, vae.scaling_factor),
            ("the resolution of the images", data.index.image_resolution, size),
        ]
        for what, there, here in facts:
            if there != here:
                raise OvertoneError(
                    f"{recipe.data} was encoded otherwise: {what} is {there} there, {here} here."
                )
        folder = data.folder / TEST_FOLDER
        return data, LatentData(folder) if folder.is_dir() else None
    images, test = images_of(
        recipe.data, size, vae.image_channels, skip_bad=recipe.skip_bad_images, show=show
    )
    vae.to(precision.default_device())
    cache = storage.cache_directory() / "latents"
    index = latents_index(images, vae, mirror=recipe.mirror, images=recipe.encoded_images)
    data = encode(images, vae, cache / fingerprint_of(index), index, show=show)
    if test is None:
        return data, None
    index = latents_index(test, vae, images=recipe.reporting.held_out_images)
    return data, encode(test, vae, cache / fingerprint_of(index), index, show=show)
