"""Recipes: named settings that train a model from its data to a saved pipeline."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pydantic
import torch
import tyro
from PIL.Image import Image

from overtone import settings, storage
from overtone.data import held_out, open_data
from overtone.denoisers import PRECONDITIONERS, DenoiserSettings, EDMSettings
from overtone.errors import OvertoneError, unknown
from overtone.launch import processes
from overtone.networks import NETWORKS, ADMConfig, DiffiTConfig, SongConfig
from overtone.pipelines import DiffiTPipeline, ImagePipeline
from overtone.pipelines.base import grid
from overtone.processes import AnySchedule, QuantileSchedule
from overtone.samplers import Sampler
from overtone.training.augment import CONDITIONS
from overtone.training.loop import Reporting, Trainer, Training
from overtone.training.objectives import DenoisingObjective, Weighting

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
    network: Annotated[DiffiTConfig | ADMConfig | SongConfig, pydantic.Field(discriminator="kind")]
    data: str = ""
    """builtin:digits, builtin:glyphs, fashion-mnist, a folder or zip of images, or hf:..."""
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
    sampler: Sampler = field(default_factory=Sampler)
    """sampler saved with the pipeline, and of the grids"""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    reporting: Annotated[Reporting, tyro.conf.arg(name="")] = field(default_factory=Reporting)

    def __post_init__(self) -> None:
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout must be in [0, 1], not {self.label_dropout}")
        if not 0 <= self.augmentation <= 1:
            raise ValueError(f"augmentation must be in [0, 1], not {self.augmentation}")
        if self.augmentation and self.mirror:
            raise ValueError("augmentation flips images already: leave mirror out")

    def identity(self) -> dict[str, Any]:
        """The settings that the weights depend on: a run goes on only with the same ones."""
        recipe = settings.dump(self)
        for free in ("about", "reporting", "sampler", "skip_bad_images"):
            del recipe[free]
        if not self.training.lr_rampdown_images:
            del recipe["training"]["total_images"]  # a constant rate lets a run be made longer
        return recipe


def trainer_of(recipe: Recipe, *, show: bool = True) -> Trainer:
    """The trainer of a recipe: data opened and checked, the network built."""
    if not recipe.data:
        raise OvertoneError(
            "this recipe has no data of its own: pass --data FOLDER, a zip, or hf:OWNER/NAME."
        )
    size, channels = recipe.network.resolution, recipe.network.channels
    skip = recipe.skip_bad_images
    show = show and processes().is_main
    data = open_data(recipe.data, size, channels, skip_bad=skip)
    if show and data.left_out:
        print(
            f"left out {len(data.left_out)} images. The first: {data.left_out[0]}", file=sys.stderr
        )
    if show and data.conversions:
        done = "; ".join(f"{what}: {count:,} images" for what, count in data.conversions.items())
        print(f"{recipe.data}: {done}", file=sys.stderr)
    if recipe.class_conditional and not data.num_classes:
        raise OvertoneError(
            f"{recipe.data} has no classes: sort its images into sub-folders,"
            " or pass --no-class-conditional."
        )
    test = held_out(recipe.data, size, channels, skip_bad=skip)
    if test is not None and test.class_names != data.class_names:
        raise OvertoneError(
            f"{recipe.data}: the classes of the test split ({', '.join(test.class_names[:5])}) are"
            f" not those of the training split ({', '.join(data.class_names[:5])}): labels would"
            " not mean the same."
        )
    plan = recipe.training
    if show and plan.lr_rampup_images + plan.lr_rampdown_images > plan.total_images:
        print(
            f"the learning rate never reaches {plan.lr}: its ramps, {plan.lr_rampup_images:,} up"
            f" and {plan.lr_rampdown_images:,} images down, are longer than the run.",
            file=sys.stderr,
        )
    if recipe.network.augment_channels and not recipe.augmentation:
        raise OvertoneError("--network.augment-channels follows from --augmentation: set that.")
    num_classes = data.num_classes if recipe.class_conditional else 0
    if recipe.network.num_classes not in (0, num_classes):
        raise OvertoneError(
            f"--network.num-classes is {recipe.network.num_classes}, but {recipe.data} has"
            f" {num_classes} classes to train with: leave it out."
        )
    try:
        config = dataclasses.replace(
            recipe.network,
            num_classes=num_classes,
            augment_channels=CONDITIONS if recipe.augmentation else 0,
        )
    except ValueError as error:
        raise OvertoneError(f"network settings: {error}.") from None
    torch.manual_seed(recipe.training.seed)
    try:
        network = NETWORKS[config.kind](config).to_fast_layout()
    except ValueError as error:
        raise OvertoneError(f"network settings: {error}.") from None

    def pipeline(denoiser: Any) -> ImagePipeline:
        kind = DiffiTPipeline if config.kind == "DiffiTUNet" else ImagePipeline
        return kind(
            denoiser.network,
            recipe.sampler,
            denoiser=recipe.denoiser,
            class_names=data.class_names if num_classes else (),
            data=recipe.data,
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
        mirror=recipe.mirror,
        augmentation=recipe.augmentation,
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


def find_recipe(name: str) -> Recipe:
    """A recipe by name, or from a JSON file."""
    if name.endswith(".json"):
        return settings.load(Recipe, storage.read_json(Path(name)), name)
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()


def diffit_digits() -> Recipe:
    return Recipe(
        about="8 px handwritten digits, class-conditional; minutes on 2 CPU cores",
        data="builtin:digits",
        network=DiffiTConfig(
            resolution=8,
            channels=1,
            widths=(64, 64),
            num_cells=(1, 1),
            head_channels=32,
            token_width=128,
            mlp_ratio=2.0,
        ),
        class_conditional=True,
        label_dropout=0.1,
        training=Training(
            total_images=150_000,
            batch_size=128,
            lr=2e-3,
            lr_rampup_images=10_000,
            lr_rampdown_images=75_000,
            ema_halflife_images=20_000,
            ema_rampup_ratio=0.1,
        ),
        reporting=Reporting(report_images=2_500, checkpoint_images=25_000),
    )


def adm_digits() -> Recipe:
    recipe = diffit_digits()
    network = ADMConfig(
        resolution=8,
        channels=1,
        widths=(64, 96),
        num_cells=1,
        attention_resolutions=(4,),
        head_channels=32,
        embedding_width=128,
    )
    about = "the same digits with ADM's U-Net, to compare with"
    return dataclasses.replace(recipe, about=about, network=network)


def diffit_fashion_mnist() -> Recipe:
    return Recipe(
        about="32 px Fashion-MNIST, class-conditional; eight hours on 2 CPU cores",
        data="fashion-mnist",
        network=DiffiTConfig(
            resolution=32,
            channels=1,
            widths=(32, 64, 64),
            num_cells=(1, 1, 2),
            token_width=256,
            head_channels=16,
            mlp_ratio=2.0,
        ),
        class_conditional=True,
        label_dropout=0.1,
        mirror=True,
        training=Training(
            total_images=2_000_000,
            batch_size=64,
            lr=1e-3,
            lr_rampup_images=20_000,
            ema_halflife_images=100_000,
        ),
        reporting=Reporting(report_images=10_000, checkpoint_images=50_000),
    )


def diffit_cifar10() -> Recipe:
    return Recipe(
        about="32 px CIFAR-10 from a folder, zip or hf:, the published settings; days on one GPU",
        network=DiffiTConfig.cifar10(),
        augmentation=0.12,
        training=Training(total_images=200_000 * 512, batch_size=512, lr=1e-3, clip_norm=None),
        reporting=Reporting(workers=4),
    )


def ddpmpp_cifar10() -> Recipe:
    about = (
        "the same images with EDM's DDPM++; --network.attention tmsa gives it DiffiT's attention"
    )
    return dataclasses.replace(diffit_cifar10(), about=about, network=SongConfig.ddpmpp())


def ncsnpp_cifar10() -> Recipe:
    about = "the same images with EDM's NCSN++"
    return dataclasses.replace(diffit_cifar10(), about=about, network=SongConfig.ncsnpp())


def diffit_ffhq64() -> Recipe:
    return Recipe(
        about="64 px FFHQ from a folder, zip or hf:, the published settings; days on several GPUs",
        network=DiffiTConfig.ffhq64(),
        augmentation=0.15,
        sampler=Sampler(num_steps=40),
        training=Training(total_images=200_000 * 256, batch_size=256, lr=2e-4, clip_norm=None),
        reporting=Reporting(workers=4),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "diffit-digits": diffit_digits,
    "adm-digits": adm_digits,
    "diffit-fashion-mnist": diffit_fashion_mnist,
    "diffit-cifar10": diffit_cifar10,
    "ddpmpp-cifar10": ddpmpp_cifar10,
    "ncsnpp-cifar10": ncsnpp_cifar10,
    "diffit-ffhq64": diffit_ffhq64,
}
