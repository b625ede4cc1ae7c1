"""DiffiT in latent space, and the VAE of the letters."""

from __future__ import annotations

import dataclasses

from overtone.convert.published import LATENT_GUIDANCE
from overtone.denoisers.guidance import GuidanceSettings
from overtone.denoisers.preconditioning import ADM_DIFFUSION, EDMPreconditioning
from overtone.networks.configs.diffit import DiffiTTransformerConfig
from overtone.networks.configs.vae import VAEConfig
from overtone.processes.schedule import QuantileSchedule
from overtone.samplers.ancestral import AncestralSampler
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.configs.training import Reporting
from overtone.training.configs.vae import VAERecipe
from overtone.training.recipes.common import ramped, steady

DIT_STEPS = 7_000_000
"""as DiT was trained: DiffiT's paper names no number"""


def vae_glyphs() -> VAERecipe:
    return VAERecipe(
        about="A small VAE encodes 16 px letters into 4 px latents. Training takes minutes on"
        " 2 CPU cores.",
        data="builtin:glyphs",
        network=VAEConfig(resolution=16, channels=3, latent_channels=4, widths=(32, 64, 64)),
        training=ramped(40_000, 32, 1e-3, 1_000, 20_000, 1_000, ratio=0.05),
        reporting=Reporting(report_images=2_000, checkpoint_images=10_000),
    )


def diffit_latent_glyphs() -> DenoisingRecipe:
    return DenoisingRecipe(
        about="DiffiT makes letters by class in the latents of vae-glyphs. Training takes"
        " minutes on 2 CPU cores.",
        data="builtin:glyphs",
        network=DiffiTTransformerConfig(
            resolution=4, patch=1, width=256, depth=6, heads=8, learned_variance=False
        ),
        class_conditional=True,
        label_dropout=0.1,
        # Latents have unit variance, where pixels have EDM's 0.5.
        preconditioning=EDMPreconditioning(sigma_data=1.0),
        schedule=QuantileSchedule(P_mean=0.0),
        vae="runs/vae-glyphs",
        encoded_images=26_000,
        guidance=GuidanceSettings(scale=2.0),
        training=ramped(120_000, 32, 1e-3, 5_000, 80_000, 10_000),
        reporting=Reporting(report_images=5_000, checkpoint_images=40_000),
    )


def diffit_latent_imagenet256() -> DenoisingRecipe:
    return dataclasses.replace(
        _latent(DiffiTTransformerConfig.preset("xl-2-256")),
        mirror=True,  # as DiT's and ADM's training
        about="DiffiT makes 256 px ImageNet in SD's latents, in the published settings."
        " Training takes days on eight GPUs.",
        guidance=LATENT_GUIDANCE[32],
    )


def diffit_latent_imagenet512() -> DenoisingRecipe:
    recipe = diffit_latent_imagenet256()
    return dataclasses.replace(
        recipe,
        about="DiffiT makes 512 px ImageNet in SD's latents, in the published settings."
        " Training takes days on eight GPUs.",
        network=DiffiTTransformerConfig.preset("xl-2-512"),
        guidance=LATENT_GUIDANCE[64],
        training=steady(DIT_STEPS, batch_size=512, lr=1e-4),
    )


def diffit_latent_b2() -> DenoisingRecipe:
    recipe = diffit_latent_imagenet256()
    return dataclasses.replace(
        recipe,
        about="DiffiT makes 256 px images of your own in DiT-B/2's widths. Training takes days"
        " on one GPU.",
        network=DiffiTTransformerConfig.preset("b-2"),
        guidance=GuidanceSettings(scale=1.5, channels=(0, 1, 2)),
    )


def _latent(network: DiffiTTransformerConfig) -> DenoisingRecipe:
    """The published training: ADM's diffusion and hybrid loss, batch 256, EMA 0.9999 a step."""
    return DenoisingRecipe(
        about="",
        network=network,
        class_conditional=True,
        label_dropout=0.1,
        preconditioning=ADM_DIFFUSION,
        schedule=ADM_DIFFUSION.schedule,
        sampler=AncestralSampler(),
        vae="stabilityai/sd-vae-ft-ema",
        scaling_factor=0.18215,  # which that repository's config.json leaves out
        training=steady(DIT_STEPS, batch_size=256, lr=3e-4),
    )
