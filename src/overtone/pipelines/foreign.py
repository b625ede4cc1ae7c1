"""A diffusers pipeline of a U-Net or DiT as one of ours: its network under a row of our table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from overtone.denoisers.foreign import preconditioning_of
from overtone.errors import OvertoneError
from overtone.networks.configs.foreign import DiffusersDiTConfig, DiffusersUNetConfig
from overtone.networks.foreign import DiffusersNetwork
from overtone.networks.vae import VAE
from overtone.pipelines.pipeline import Pipeline
from overtone.samplers.sampler import Sampler


def diffusers_pipeline(folder: Path) -> Pipeline:
    """The pipeline in a directory; its sampler is Heun's, from the highest noise level that its
    network was trained on.

    Raises `OvertoneError` for code in the directory and for networks of another kind.
    """
    from diffusers import DiffusionPipeline

    code = sorted(file.name for file in folder.rglob("*.py"))
    if code:
        raise OvertoneError(
            f"{folder} holds code ({', '.join(code[:3])}), which diffusers might execute: move it"
            " away, if the pipeline needs none."
        )
    try:
        foreign: Any = DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    except Exception as error:  # a broken file makes diffusers raise almost anything
        raise OvertoneError(f"{folder}: diffusers can't load the pipeline ({error}).") from None
    network: Any = getattr(foreign, "unet", None) or getattr(foreign, "transformer", None)
    _check_network(folder, network, hasattr(foreign, "scheduler"))
    row = preconditioning_of(foreign.scheduler)
    schedule: Any = row.schedule_of_time
    low, high = (0.002, 80.0) if schedule is None else (schedule.sigmas[0], schedule.sigmas[-1])
    own = getattr(foreign, "vae", None) or getattr(foreign, "vqvae", None)
    return Pipeline(
        DiffusersNetwork.of(network),
        Sampler(18, sigma_min=low, sigma_max=high, estimate="heun"),
        preconditioning=row,
        vae=None if own is None else VAE.from_pretrained(folder),
    )


def _check_network(folder: Path, network: Any, has_scheduler: bool) -> None:
    known = DiffusersUNetConfig, DiffusersDiTConfig
    if not has_scheduler or not any(kind.fits(network) for kind in known):
        raise OvertoneError(
            f"{folder} has no network of these with a scheduler:"
            f" {', '.join(kind.model_class for kind in known)}"
            + ("." if network is None else f" (it has a {type(network).__name__}).")
        )
    config = network.config
    sizes = config.sample_size
    sizes = (sizes, sizes) if isinstance(sizes, int) else tuple(sizes or ())
    if len(sizes) != 2 or sizes[0] != sizes[1]:
        raise OvertoneError(f"{folder}: images are square here, and its sample_size is {sizes}.")
    if config.out_channels not in (None, config.in_channels, 2 * config.in_channels):
        raise OvertoneError(
            f"{folder}: its network makes {config.out_channels} channels of {config.in_channels}."
        )
