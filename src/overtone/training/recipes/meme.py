"""MEME: experts of different shapes for intervals of noise levels."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

from overtone.denoisers.intervals import time_shares
from overtone.denoisers.preconditioning import VPPreconditioning
from overtone.networks.configs.iunet import IUNetConfig
from overtone.processes.discrete import DiscreteSchedule, step_shares
from overtone.samplers.sampler import Sampler
from overtone.training.configs.denoising import DenoisingRecipe, ExpertSettings
from overtone.training.configs.training import Training
from overtone.training.recipes.common import steady
from overtone.training.recipes.diffit import diffit_digits, diffit_fashion_mnist


def meme_digits() -> DenoisingRecipe:
    recipe = dataclasses.replace(
        diffit_digits(),
        about="Four experts make the digits of diffit-digits. Training takes forty minutes on"
        " 2 CPU cores.",
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
    return with_experts(recipe, step_shares(Sampler().sigmas, 4))


def meme_fashion_mnist() -> DenoisingRecipe:
    recipe = dataclasses.replace(
        diffit_fashion_mnist(),
        about="Four experts make 32 px Fashion-MNIST. Training takes hours on 2 CPU cores.",
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
    return with_experts(recipe, step_shares(Sampler().sigmas, 4))


def meme_celeba64() -> DenoisingRecipe:
    recipe = DenoisingRecipe(
        about="Four small ADM experts make 64 px CelebA from a folder, zip or hf:, in EDM's"
        " preconditioning, which is not the paper's. Training takes days on four GPUs.",
        network=IUNetConfig(
            resolution=64,
            widths=(64, 128, 192, 256),
            num_cells=2,
            attention_resolutions=(32, 16, 8),
            head_channels=16,
            embedding_width=256,
        ),
        mirror=True,
        training=steady(steps=500_000, batch_size=128, lr=1e-4),
    )
    return with_experts(recipe, step_shares(Sampler().sigmas, 4))


def meme_ffhq() -> DenoisingRecipe:
    return _meme_latent(
        "Four iU-LDM-S, of 84.4 M parameters each (the paper's have 82.9 M), make 256 px FFHQ in"
        " LDM-4's latents. Training takes days on four GPUs.",
        steady(steps=635_000, batch_size=42, lr=8.4e-5),
    )


def meme_celebahq() -> DenoisingRecipe:
    training = steady(steps=410_000, batch_size=48, lr=9.6e-5)
    return _meme_latent(
        "Four iU-LDM-S make 256 px CelebA-HQ in LDM-4's latents, as meme-ffhq does.", training
    )


def _meme_latent(about: str, training: Training) -> DenoisingRecipe:
    """Latent diffusion (Rombach et al. 2022, arXiv 2112.10752) by experts. Published images are of
    DDIM's 200 steps: --scheduler DDIMScheduler --steps 200."""
    schedule = DiscreteSchedule(betas="scaled_linear", beta_start=0.0015, beta_end=0.0195)
    levels = schedule.sigmas
    recipe = DenoisingRecipe(
        about=about,
        network=IUNetConfig.ldm(128),
        preconditioning=VPPreconditioning(prediction="eps", schedule=schedule, time_scale=999.0),
        schedule=schedule,
        sampler=Sampler(
            num_steps=100, sigma_min=levels[0], sigma_max=levels[-1], estimate="two_step"
        ),
        vae="CompVis/ldm-celebahq-256",
        scaling_factor=1.0,  # which that repository's config.json leaves out
        training=training,
    )
    return with_experts(recipe, time_shares(4, schedule))


def with_experts(recipe: DenoisingRecipe, boundaries: tuple[float, ...]) -> DenoisingRecipe:
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
