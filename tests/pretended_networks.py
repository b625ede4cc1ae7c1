"""Cases of networks on a pretended device: forwards, backwards, and under autocast."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import diffusers
import torch

import helpers
from overtone import precision
from overtone.networks import VAEConfig, foreign_config, temporalize
from pretended_parts import (
    DSNO,
    LABELS,
    PIXEL_TRANSFORMER,
    SMALL_CLASSIFIER,
    Call,
    Case,
    a_unet,
    awake,
    gradients,
    normal,
)

replace = dataclasses.replace


def a_dit() -> Any:
    return diffusers.DiTTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        patch_size=2,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        norm_num_groups=2,
        num_embeds_ada_norm=3,
    )


def networks() -> Iterator[Case]:
    """Every kind of network: forwards, backwards, and under autocast."""
    diffit, song = helpers.TINY_DIFFIT, helpers.TINY_SONG
    augmented = {"augment_channels": 9}
    told = {
        "DiffiTUNet": diffit,
        "DiffiTUNet, augmented, Fourier time": replace(
            diffit, time_embedding="fourier", **augmented
        ),
        "DiffiTUNet, time in a token": replace(diffit, time_in="separate"),
        "DiffiTUNet, time in the MLP": replace(diffit, time_in="mlp"),
        "DiffiTUNet, time in the bias": replace(diffit, time_in="bias"),
        "DiffiTUNet, aggregation": replace(diffit, decoder="aggregation"),
        "ADMUNet": helpers.TINY_ADM,
        "ADMUNet, augmented": replace(helpers.TINY_ADM, **augmented),
        "ADMUNet, latent diffusion's": replace(helpers.TINY_ADM, layout="ldm"),
        "SongUNet, DDPM++": song,
        "SongUNet, NCSN++": helpers.TINY_NCSN,
        "IUNet": helpers.TINY_IUNET,
        "DiffiTTransformer": helpers.TINY_TRANSFORMER,
        "DiffusersUNet": foreign_config(a_unet(), null_class=True),
        "DiffusersDiT": foreign_config(a_dit()),
    }
    for name, config in told.items():
        yield from network_cases(name, config)
    yield from network_cases("DiffiTTransformer, another grid", helpers.TINY_TRANSFORMER, (12, 8))
    yield from network_cases(
        "DiffiTTransformer, gradient checkpointing", helpers.TINY_TRANSFORMER, again=True
    )
    trajectories = {
        "DSNOUNet": DSNO,
        "TemporalNetwork of a DiffiTUNet": temporalize(diffit.build()).config,
        "TemporalNetwork of a transformer": temporalize(PIXEL_TRANSFORMER.build()).config,
        "TemporalNetwork of a diffusers U-Net": temporalize(a_unet()).config,
    }
    for name, config in trajectories.items():
        yield from network_cases(name, config, times=True)
    yield Case("Classifier, backwards", classifier_call)
    yield Case("VAE, backwards and decoding", vae_call)


def network_cases(
    name: str,
    config: Any,
    size: tuple[int, int] | None = None,
    *,
    times: bool = False,
    again: bool = False,
) -> Iterator[Case]:
    size = size or (config.resolution, config.resolution)

    def made(device: torch.device, mode: str) -> Call:
        network = awake(config).to(device).train(mode == "backwards")
        network.gradient_checkpointing = again
        x = normal(4, config.channels, *size).to(device)
        time = torch.tensor((0.9, 0.6, 0.3, 0.0) if times else (0.1, 0.3, 0.5, 0.9)).to(device)
        labels = torch.tensor(LABELS).clamp(max=2 if times else 3).to(device)
        augmented = getattr(config, "augment_channels", 0)
        more = (normal(4, 9).to(device),) if augmented else ()

        def call() -> Any:
            if mode == "backwards":
                out = network(x, time, labels, *more)
                out.square().mean().backward()
                return out, gradients(network)
            kind = "bf16" if mode == "bfloat16" else "fp32"
            with torch.no_grad(), precision.autocast(kind, device):
                return network(x, time, labels, *more)

        return call

    # A temporal convolution ends in a kink, where rounding decides on a gradient.
    tolerances = {"forwards": 1e-4, "backwards": 1e-3 if times else 1e-4}
    for mode, most in tolerances.items():
        yield Case(f"{name}, {mode}", lambda device, mode=mode: made(device, mode), (config,), most)
    yield Case(
        f"{name}, bfloat16",
        lambda device: made(device, "bfloat16"),
        (config,),
        tolerance=1e-2,
        autocast=True,
    )


def classifier_call(device: torch.device) -> Call:
    network = awake(SMALL_CLASSIFIER).to(device)
    x = normal(4, 1, 8, 8).to(device)

    def call() -> Any:
        out = network(x)
        out.square().mean().backward()
        return out, gradients(network)

    return call


def vae_call(device: torch.device) -> Call:
    vae = helpers.awake(VAEConfig(resolution=16, widths=(8, 8), groups=4).build()).to(device)
    x, noise = normal(2, 3, 16, 16).to(device), normal(2, 4, 8, 8).to(device)

    def call() -> Any:
        parts = vae(x, noise)
        sum(part.square().mean() for part in parts).backward()
        with torch.no_grad():
            return *parts, gradients(vae), vae.decode(noise)

    return call
