"""Recipes by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from overtone import settings, storage
from overtone.convert.diffit import GUIDANCE
from overtone.convert.edm import SAMPLERS
from overtone.denoisers import ADM_DIFFUSION, EDMSettings, GuidanceSettings, VPSettings
from overtone.denoisers.experts import step_shares, time_shares
from overtone.errors import unknown
from overtone.networks import (
    ADMConfig,
    DiffiTConfig,
    DiffiTTransformerConfig,
    IUNetConfig,
    SongConfig,
)
from overtone.networks.vae import VAEConfig
from overtone.pipelines import RelayPipeline
from overtone.processes import DiscreteSchedule, QuantileSchedule, RelayProcess
from overtone.samplers import AncestralSampler, Sampler
from overtone.training.distill import Distillation
from overtone.training.loop import Reporting, Training
from overtone.training.recipe import ExpertSettings, Recipe
from overtone.training.vae import VAERecipe

AnyRecipe = Recipe | VAERecipe | Distillation


def find_recipe(name: str) -> AnyRecipe:
    """A recipe by name, or from a JSON file."""
    if name.endswith(".json"):
        data = storage.read_json(Path(name), dict)
        if data.get("kind") == "vae":
            return settings.load(VAERecipe, data, name)
        if data.get("kind") == "distillation":
            return settings.load(Distillation, data, name)
        return settings.load(Recipe, data, name)
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


def meme_digits() -> Recipe:
    recipe = dataclasses.replace(
        diffit_digits(),
        about="the same digits by four experts; forty minutes on 2 CPU cores",
        network=IUNetConfig(
            resolution=8,
            channels=1,
            widths=(64, 64),
            num_cells=2,
            attention_resolutions=(4,),
            head_channels=4,
            embedding_width=128,
            dropout=0.0,
        ),
    )
    return _with_experts(recipe, step_shares(Sampler().sigmas, 4))


def meme_fashion_mnist() -> Recipe:
    recipe = dataclasses.replace(
        diffit_fashion_mnist(),
        about="32 px Fashion-MNIST by four experts; hours on 2 CPU cores",
        network=IUNetConfig(
            resolution=32,
            channels=1,
            widths=(32, 64, 96),
            num_cells=2,
            attention_resolutions=(16, 8),
            head_channels=8,
            embedding_width=192,
            dropout=0.0,
        ),
    )
    return _with_experts(recipe, step_shares(Sampler().sigmas, 4))


def meme_celeba64() -> Recipe:
    recipe = Recipe(
        about="64 px CelebA from a folder, zip or hf: by four small ADM experts; days on four GPUs",
        network=IUNetConfig(
            resolution=64,
            widths=(64, 128, 192, 256),
            num_cells=2,
            attention_resolutions=(32, 16, 8),
            head_channels=16,
            embedding_width=256,
        ),
        mirror=True,
        training=_steady_training(steps=500_000, batch_size=128, lr=1e-4),
        reporting=Reporting(workers=4),
    )
    return _with_experts(recipe, step_shares(Sampler().sigmas, 4))


def meme_ffhq() -> Recipe:
    return _meme_latent(
        "256 px FFHQ in LDM-4's latents by four iU-LDM-S, as published; days on four GPUs",
        _steady_training(steps=635_000, batch_size=42, lr=8.4e-5),
    )


def meme_celebahq() -> Recipe:
    training = _steady_training(steps=410_000, batch_size=48, lr=9.6e-5)
    return _meme_latent("the same of CelebA-HQ", training)


def _meme_latent(about: str, training: Training) -> Recipe:
    """Latent diffusion (Rombach et al. 2022, arXiv 2112.10752) by experts. Published images are of
    DDIM's 200 steps: --scheduler DDIMScheduler --steps 200."""
    schedule = DiscreteSchedule(betas="scaled_linear", beta_start=0.0015, beta_end=0.0195)
    levels = schedule.levels.tolist()
    recipe = Recipe(
        about=about,
        network=IUNetConfig.ldm(128),
        denoiser=VPSettings(prediction="eps", schedule=schedule, time_scale=999.0),
        schedule=schedule,
        weighting="eps",
        sampler=Sampler(
            num_steps=100, sigma_min=levels[0], sigma_max=levels[-1], estimate="two_step"
        ),
        vae="CompVis/ldm-celebahq-256",
        scaling_factor=1.0,  # which that repository's config.json leaves out
        training=training,
        reporting=Reporting(workers=4),
    )
    return _with_experts(recipe, time_shares(4, schedule))


def _with_experts(recipe: Recipe, boundaries: tuple[float, ...]) -> Recipe:
    """Four experts in the published shapes, each trained on its own interval as much as published:
    with p = 0.8, 0.4, 0.2, 0.1 on intervals of a quarter of training's time each, p + (1 - p) / 4
    of its images. Where the intervals are other shares of training, p differs."""
    edges = [0.0, *(recipe.schedule.drawn_below(sigma) for sigma in boundaries), 1.0]
    probabilities = []
    for published, (low, high) in zip((0.8, 0.4, 0.2, 0.1), pairwise(edges), strict=True):
        share, wanted = high - low, published + (1 - published) / 4
        probabilities.append(round(max(0.0, (wanted - share) / (1 - share)), 3))
    experts = ExpertSettings(boundaries, tuple(probabilities), shapes="published")
    return dataclasses.replace(recipe, experts=experts)


def relay_glyphs_16() -> Recipe:
    return Recipe(
        about="first stage of relay-glyphs: 16 px letters, conditional; 15 min on 2 CPU cores",
        data="builtin:glyphs",
        network=ADMConfig(
            resolution=16,
            channels=3,
            widths=(48, 96),
            num_cells=1,
            attention_resolutions=(8,),
            head_channels=32,
            embedding_width=192,
            dropout=0.0,
        ),
        class_conditional=True,
        label_dropout=0.1,
        guidance=GuidanceSettings(scale=3.0),
        training=Training(
            total_images=120_000,
            batch_size=64,
            lr=1e-3,
            lr_rampup_images=10_000,
            lr_rampdown_images=60_000,
            ema_halflife_images=10_000,
            ema_rampup_ratio=0.1,
        ),
        reporting=Reporting(report_images=5_000, checkpoint_images=40_000),
    )


def relay_glyphs() -> Recipe:
    recipe = Recipe(
        about="second stage: the letters of relay-glyphs-16 at 64 px; 21 min on 2 CPU cores",
        data="builtin:glyphs",
        network=ADMConfig(
            resolution=64,
            channels=3,
            widths=(24, 32, 64, 96),
            num_cells=1,
            attention_resolutions=(8,),
            head_channels=32,
            embedding_width=192,
            dropout=0.0,
        ),
        class_conditional=True,
        label_dropout=0.1,
        training=Training(
            total_images=40_000,
            batch_size=32,
            lr=1e-3,
            lr_rampup_images=5_000,
            lr_rampdown_images=20_000,
            ema_halflife_images=5_000,
            ema_rampup_ratio=0.1,
        ),
        reporting=Reporting(report_images=2_500, checkpoint_images=20_000),
    )
    return _relay(recipe, "runs/relay-glyphs-16", prob_length=0.93)


def relay_celebahq_64() -> Recipe:
    return Recipe(
        about="first stage of relay-celebahq: 64 px, the published settings; days on several GPUs",
        network=_adm(64, 192, (1, 2, 3, 4), num_cells=3, dropout=0.15),
        augmentation=0.2,
        sampler=SAMPLERS["relay-celebahq-64"],
        training=_relay_training(total_images=47_000_000, batch_size=1024),
        reporting=Reporting(workers=4),
    )


def relay_celebahq() -> Recipe:
    recipe = Recipe(
        about="256 px CelebA-HQ from 64 px, trained as published; days on 8 GPUs",
        network=_adm(256, 256, (1, 1, 2, 2, 4, 4), num_cells=2, dropout=0.2),
        augmentation=0.2,
        training=_relay_training(total_images=47_000_000, batch_size=1024),
        reporting=Reporting(workers=4),
    )
    return _relay(recipe, "runs/relay-celebahq-64", prob_length=0.89, blur_sigma_max=2.0)


def relay_imagenet_64() -> Recipe:
    return Recipe(
        about="first stage of relay-imagenet: EDM's ImageNet at 64 px; weeks on 32 GPUs",
        network=_adm(64, 192, (1, 2, 3, 4), num_cells=3, dropout=0.1),
        class_conditional=True,
        sampler=SAMPLERS["relay-imagenet-64"],
        training=_relay_training(
            total_images=2_500_000_000, batch_size=4096, ema_halflife_images=50_000_000
        ),
        reporting=Reporting(workers=4),
    )


def relay_imagenet() -> Recipe:
    recipe = Recipe(
        about="256 px ImageNet from 64 px, trained as published; weeks on 32 GPUs",
        network=_adm(256, 256, (1, 1, 2, 2, 4, 4), num_cells=2, dropout=0.1),
        class_conditional=True,
        label_dropout=0.1,
        augmentation=0.12,
        guidance=GuidanceSettings(scale=3.5),
        training=_relay_training(total_images=1_250_000_000, batch_size=4096),
        reporting=Reporting(workers=4),
    )
    return _relay(recipe, "runs/relay-imagenet-64", prob_length=0.93)


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


def _relay(recipe: Recipe, first: str, prob_length: float, blur_sigma_max: float = 3.0) -> Recipe:
    """`recipe` as a second stage: its noise levels end at `prob_length`, where blur has come in."""
    schedule = QuantileSchedule(prob_length=prob_length, truncate_sigma=0.0075)
    process = RelayProcess(blur_sigma_max=blur_sigma_max, schedule=schedule)
    sampler = RelayPipeline.default_sampler
    return dataclasses.replace(
        recipe, schedule=schedule, process=process, sampler=sampler, first=first
    )


def vae_glyphs() -> VAERecipe:
    return VAERecipe(
        about="a small VAE of 16 px letters, 4 px latents; minutes on 2 CPU cores",
        data="builtin:glyphs",
        network=VAEConfig(resolution=16, channels=3, latent_channels=4, widths=(32, 64, 64)),
        training=Training(
            total_images=40_000,
            batch_size=32,
            lr=1e-3,
            lr_rampup_images=1_000,
            lr_rampdown_images=20_000,
            ema_halflife_images=1_000,
        ),
        reporting=Reporting(report_images=2_000, checkpoint_images=10_000),
    )


def diffit_latent_glyphs() -> Recipe:
    return Recipe(
        about="letters in the latents of vae-glyphs, class-conditional; minutes on 2 CPU cores",
        data="builtin:glyphs",
        network=DiffiTTransformerConfig(
            resolution=4, patch=1, width=256, depth=6, heads=8, learned_variance=False
        ),
        class_conditional=True,
        label_dropout=0.1,
        # Latents have unit variance, where pixels have EDM's 0.5.
        denoiser=EDMSettings(sigma_data=1.0),
        schedule=QuantileSchedule(P_mean=0.0),
        vae="runs/vae-glyphs",
        encoded_images=26_000,
        guidance=GuidanceSettings(scale=2.0),
        training=Training(
            total_images=120_000,
            batch_size=32,
            lr=1e-3,
            lr_rampup_images=5_000,
            lr_rampdown_images=80_000,
            ema_halflife_images=10_000,
            ema_rampup_ratio=0.1,
        ),
        reporting=Reporting(report_images=5_000, checkpoint_images=40_000),
    )


def diffit_latent_imagenet256() -> Recipe:
    return dataclasses.replace(
        _latent(DiffiTTransformerConfig.preset("xl-2-256")),
        mirror=True,  # as DiT's and ADM's training
        about="256 px ImageNet in SD's latents, the published settings; days on eight GPUs",
        guidance=GUIDANCE[32],
    )


def diffit_latent_imagenet512() -> Recipe:
    recipe = diffit_latent_imagenet256()
    return dataclasses.replace(
        recipe,
        about="the same at 512 px",
        network=DiffiTTransformerConfig.preset("xl-2-512"),
        guidance=GUIDANCE[64],
        training=_steady_training(DIT_STEPS, batch_size=512, lr=1e-4),
    )


def diffit_latent_b2() -> Recipe:
    recipe = diffit_latent_imagenet256()
    return dataclasses.replace(
        recipe,
        about="256 px images of your own in DiT-B/2's widths; days on one GPU",
        network=DiffiTTransformerConfig.preset("b-2"),
        guidance=GuidanceSettings(scale=1.5, channels=(0, 1, 2)),
    )


def _latent(network: DiffiTTransformerConfig) -> Recipe:
    """The published training: ADM's diffusion and hybrid loss, batch 256, EMA 0.9999 a step."""
    return Recipe(
        about="",
        network=network,
        class_conditional=True,
        label_dropout=0.1,
        denoiser=ADM_DIFFUSION,
        schedule=ADM_DIFFUSION.schedule,
        weighting="eps",
        sampler=AncestralSampler(),
        vae="stabilityai/sd-vae-ft-ema",
        scaling_factor=0.18215,  # which that repository's config.json leaves out
        training=_steady_training(DIT_STEPS, batch_size=256, lr=3e-4),
        reporting=Reporting(workers=4),
    )


def dsno_digits() -> Distillation:
    return Distillation(
        about="diffit-digits in one evaluation; twenty minutes on 2 CPU cores",
        teacher="runs/diffit-digits",
        guidance_scale=1.5,
        steps=10,
        training=Training(
            total_images=80_000,
            batch_size=128,
            lr=2e-3,
            lr_rampup_images=5_000,
            lr_rampdown_images=60_000,
            ema_halflife_images=5_000,
            ema_rampup_ratio=0.1,
        ),
        reporting=Reporting(report_images=2_500, checkpoint_images=25_000, held_out_images=256),
    )


def dsno_fashion_mnist() -> Distillation:
    return Distillation(
        about="diffit-fashion-mnist in one evaluation, from 50,000 trajectories",
        teacher="models/diffit-fashion-mnist",
        count=50_000,
        training=Training(
            total_images=1_000_000,
            batch_size=64,
            lr=1e-3,
            lr_rampup_images=20_000,
            lr_rampdown_images=500_000,
            ema_halflife_images=20_000,
        ),
        reporting=Reporting(report_images=10_000, checkpoint_images=50_000, held_out_images=256),
    )


def dsno_glyphs_16() -> Distillation:
    return Distillation(
        about="relay-glyphs-16 in one evaluation, for dsno-glyphs; 90 minutes on a CPU core",
        teacher="runs/relay-glyphs-16",
        solver="dpmpp",
        steps=14,
        count=12_000,
        training=Training(
            total_images=60_000,
            batch_size=64,
            lr=1e-3,
            lr_rampup_images=5_000,
            lr_rampdown_images=40_000,
            ema_halflife_images=3_000,
            ema_rampup_ratio=0.1,
        ),
        reporting=Reporting(report_images=2_500, checkpoint_images=20_000, held_out_images=256),
    )


def dsno_glyphs() -> Distillation:
    return Distillation(
        about="relay-glyphs in two evaluations, of which this is the second; an hour on a CPU core",
        teacher="runs/relay-glyphs",
        first="runs/dsno-glyphs-16",
        count=3_000,
        held_out=128,
        num_times=2,
        training=Training(
            total_images=12_000,
            batch_size=32,
            lr=1e-3,
            lr_rampup_images=1_500,
            lr_rampdown_images=9_000,
            ema_halflife_images=1_000,
            ema_rampup_ratio=0.1,
        ),
        reporting=Reporting(report_images=1_000, checkpoint_images=4_000, held_out_images=128),
    )


def dsno_cifar10() -> Distillation:
    return Distillation(
        about="CIFAR-10 in one evaluation, as published: a million trajectories; days on GPUs",
        teacher="runs/diffit-cifar10",
        count=1_000_000,
        solver="ddim",
        steps=512,
        training=_operator_training(400_000, 256, halved=(100_000, 200_000, 300_000)),
        reporting=Reporting(workers=4),
    )


def dsno_imagenet64() -> Distillation:
    return Distillation(
        about="64 px ImageNet in one evaluation, as published: 2.3 million trajectories; on 8 GPUs",
        teacher="runs/relay-imagenet-64",
        count=2_300_000,
        solver="ddim",
        steps=16,
        spacing="uniform",
        training=_operator_training(480_000, 2048, halved=(200_000, 400_000)),
        reporting=Reporting(workers=4),
    )


def _operator_training(steps: int, batch_size: int, halved: tuple[int, ...]) -> Training:
    """As published: Adam at 2e-4 after 10,000 steps, halved at some, EMA 0.9999 a step."""
    return dataclasses.replace(
        _steady_training(steps, batch_size, lr=2e-4),
        lr_rampup_images=10_000 * batch_size,
        lr_halved_images=tuple(step * batch_size for step in halved),
    )


DIT_STEPS = 7_000_000
"""as DiT was trained: DiffiT's paper names no number"""


def _steady_training(steps: int, batch_size: int, lr: float) -> Training:
    """A constant learning rate from the first step on, EMA 0.9999 a step."""
    return Training(
        total_images=steps * batch_size,
        batch_size=batch_size,
        lr=lr,
        lr_rampup_images=0,
        clip_norm=None,
        ema_halflife_images=round(batch_size * math.log(2) / -math.log(0.9999)),
        ema_rampup_ratio=None,
    )


RECIPES: dict[str, Callable[[], AnyRecipe]] = {
    "diffit-digits": diffit_digits,
    "adm-digits": adm_digits,
    "diffit-fashion-mnist": diffit_fashion_mnist,
    "diffit-cifar10": diffit_cifar10,
    "ddpmpp-cifar10": ddpmpp_cifar10,
    "ncsnpp-cifar10": ncsnpp_cifar10,
    "diffit-ffhq64": diffit_ffhq64,
    "meme-digits": meme_digits,
    "meme-fashion-mnist": meme_fashion_mnist,
    "meme-celeba64": meme_celeba64,
    "meme-ffhq": meme_ffhq,
    "meme-celebahq": meme_celebahq,
    "relay-glyphs-16": relay_glyphs_16,
    "relay-glyphs": relay_glyphs,
    "relay-celebahq-64": relay_celebahq_64,
    "relay-celebahq": relay_celebahq,
    "relay-imagenet-64": relay_imagenet_64,
    "relay-imagenet": relay_imagenet,
    "dsno-digits": dsno_digits,
    "dsno-fashion-mnist": dsno_fashion_mnist,
    "dsno-glyphs-16": dsno_glyphs_16,
    "dsno-glyphs": dsno_glyphs,
    "dsno-cifar10": dsno_cifar10,
    "dsno-imagenet64": dsno_imagenet64,
    "vae-glyphs": vae_glyphs,
    "diffit-latent-glyphs": diffit_latent_glyphs,
    "diffit-latent-b2": diffit_latent_b2,
    "diffit-latent-imagenet256": diffit_latent_imagenet256,
    "diffit-latent-imagenet512": diffit_latent_imagenet512,
}
