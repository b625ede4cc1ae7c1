"""Relay diffusion: first stages and the second stages that continue them."""

from __future__ import annotations

import dataclasses

from overtone.convert.published import SAMPLERS
from overtone.denoisers.guidance import GuidanceSettings
from overtone.networks.configs.adm import ADMConfig
from overtone.processes.relay import RelayProcess
from overtone.processes.schedule import QuantileSchedule
from overtone.samplers.sampler import SECOND_STAGE
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.configs.training import Reporting, Training
from overtone.training.recipes.common import ramped


def relay_glyphs_16() -> DenoisingRecipe:
    return DenoisingRecipe(
        about="The first stage of relay-glyphs makes 16 px letters by class. Training takes"
        " half an hour on 2 CPU cores.",
        data="builtin:glyphs",
        network=_letters(16, (48, 96), attends=8),
        class_conditional=True,
        label_dropout=0.1,
        guidance=GuidanceSettings(scale=2.0),
        training=ramped(300_000, 64, 1e-3, 10_000, 150_000, 20_000),
        reporting=Reporting(report_images=5_000, checkpoint_images=60_000),
    )


def relay_glyphs() -> DenoisingRecipe:
    recipe = DenoisingRecipe(
        about="A second stage makes the letters of relay-glyphs-16 at 64 px. Training takes a"
        " quarter of an hour on 2 CPU cores.",
        data="builtin:glyphs",
        network=_letters(64, (24, 32, 64, 96), attends=8),
        class_conditional=True,
        label_dropout=0.1,
        training=ramped(40_000, 32, 1e-3, 5_000, 20_000, 5_000),
        reporting=Reporting(report_images=2_500, checkpoint_images=20_000),
    )
    # A letter of 16 px leaves little to decide: the second stage begins at a lower level than with
    # photographs, where the noise hides none of its strokes and the blur has taken all finer ones.
    return _relay(
        recipe, "runs/relay-glyphs-16", prob_length=0.5, blur_sigma_max=10.0, sigma_max=0.29
    )


def relay_glyphs_256() -> DenoisingRecipe:
    recipe = DenoisingRecipe(
        about="A relay's third stage makes the letters of relay-glyphs at 256 px.",
        data="builtin:glyphs",
        network=_letters(256, (16, 24, 32, 64, 96), attends=16),
        class_conditional=True,
        label_dropout=0.1,
        training=ramped(6_000, 8, 5e-4, 500, 3_000, 750),
        reporting=Reporting(report_images=500, checkpoint_images=2_000, held_out_images=256),
    )
    return _relay(recipe, "runs/relay-glyphs", prob_length=0.93)


def relay_celebahq_64() -> DenoisingRecipe:
    return DenoisingRecipe(
        about="The first stage of relay-celebahq makes 64 px images, in the published"
        " settings. Training takes days on several GPUs.",
        network=_adm(64, 192, (1, 2, 3, 4), num_cells=3, dropout=0.15),
        augmentation=0.2,
        sampler=SAMPLERS["relay-celebahq-64"],
        training=_relay_training(total_images=47_000_000, batch_size=1024),
    )


def relay_celebahq() -> DenoisingRecipe:
    recipe = DenoisingRecipe(
        about="A second stage makes 256 px CelebA-HQ from 64 px, trained as published."
        " Training takes days on 8 GPUs.",
        network=_adm(256, 256, (1, 1, 2, 2, 4, 4), num_cells=2, dropout=0.2),
        augmentation=0.2,
        training=_relay_training(total_images=47_000_000, batch_size=1024),
    )
    return _relay(recipe, "runs/relay-celebahq-64", prob_length=0.89, blur_sigma_max=2.0)


def relay_imagenet_64() -> DenoisingRecipe:
    return DenoisingRecipe(
        about="The first stage of relay-imagenet is EDM's model of 64 px ImageNet. Training"
        " takes weeks on 32 GPUs.",
        network=_adm(64, 192, (1, 2, 3, 4), num_cells=3, dropout=0.1),
        class_conditional=True,
        sampler=SAMPLERS["relay-imagenet-64"],
        training=_relay_training(
            total_images=2_500_000_000, batch_size=4096, ema_halflife_images=50_000_000
        ),
    )


def relay_imagenet() -> DenoisingRecipe:
    recipe = DenoisingRecipe(
        about="A second stage makes 256 px ImageNet from 64 px, trained as published. Training"
        " takes weeks on 32 GPUs.",
        network=_adm(256, 256, (1, 1, 2, 2, 4, 4), num_cells=2, dropout=0.1),
        class_conditional=True,
        label_dropout=0.1,
        augmentation=0.12,
        guidance=GuidanceSettings(scale=3.5),
        training=_relay_training(total_images=1_250_000_000, batch_size=4096),
    )
    return _relay(recipe, "runs/relay-imagenet-64", prob_length=0.93)


def _letters(resolution: int, widths: tuple[int, ...], *, attends: int) -> ADMConfig:
    return ADMConfig(
        resolution=resolution,
        channels=3,
        widths=widths,
        num_cells=1,
        attention_resolutions=(attends,),
        head_channels=32,
        embedding_width=192,
        dropout=0.0,
    )


def _adm(
    resolution: int, width: int, multipliers: tuple[int, ...], num_cells: int, dropout: float
) -> ADMConfig:
    return ADMConfig(
        resolution=resolution,
        channels=3,
        widths=tuple(width * m for m in multipliers),
        num_cells=num_cells,
        attention_resolutions=(32, 16, 8),
        embedding_width=4 * width,
        dropout=dropout,
    )


def _relay_training(
    total_images: int, batch_size: int, ema_halflife_images: int = 500_000
) -> Training:
    return Training(
        total_images=total_images,
        batch_size=batch_size,
        lr=1e-4,
        clip_norm=None,
        ema_halflife_images=ema_halflife_images,
    )


def _relay(
    recipe: DenoisingRecipe,
    first: str,
    prob_length: float,
    blur_sigma_max: float = 3.0,
    sigma_max: float = SECOND_STAGE.sigma_max,
) -> DenoisingRecipe:
    """`recipe` as a second stage: its noise levels end at `prob_length`, where blur has come in,
    and its sampler begins at `sigma_max`."""
    schedule = QuantileSchedule(prob_length=prob_length, truncate_sigma=0.0075)
    process = RelayProcess(blur_sigma_max=blur_sigma_max, schedule=schedule)
    sampler = dataclasses.replace(SECOND_STAGE, sigma_max=sigma_max)
    return dataclasses.replace(
        recipe, schedule=schedule, process=process, sampler=sampler, first=first
    )
