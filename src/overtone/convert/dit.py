"""The latent DiffiT inside diffusers' own `DiTPipeline`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from overtone.errors import OvertoneError
from overtone.networks.diffit import DiffiTTransformer
from overtone.pipelines.pipeline import Pipeline

DIT_NULL_CLASS = 1000  # written into that pipeline


class DiTModel(nn.Module):
    """A `DiffiTTransformer` with the face that `diffusers.DiTPipeline` knows."""

    def __init__(self, network: DiffiTTransformer) -> None:
        super().__init__()
        self.network = network
        self.config = SimpleNamespace(
            sample_size=network.config.resolution,
            in_channels=network.config.channels,
            out_channels=network.out_channels,
        )

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor) -> Any:
        return SimpleNamespace(sample=self.network(hidden_states, timestep.float(), class_labels))


def dit_pipeline(pipe: Pipeline, scheduler: Any) -> Any:
    """`diffusers.DiTPipeline` of this pipeline's network and VAE, with a scheduler of diffusers.

    Without guidance (guidance_scale=1) its images are ours under the same scheduler. Its guidance
    is another: the same scale at every step and in all channels of the noise, where the published
    one leaves the fourth channel alone and grows from nothing with the power-cosine; and it drops
    the variance that the network learned, so that the scheduler's has to be a fixed one. Its null
    class is number 1000, written in: only for networks with 1000 classes. Raises `OvertoneError`
    for others, and without a VAE.
    """
    from diffusers import DiTPipeline

    if pipe.num_classes != DIT_NULL_CLASS:
        raise OvertoneError(
            f"diffusers' DiTPipeline always has {DIT_NULL_CLASS} classes, and this model has"
            f" {pipe.num_classes}: sample with Overtone's pipeline."
        )
    if pipe.vae is None:
        raise OvertoneError("diffusers' DiTPipeline needs a VAE: set pipe.vae first.")
    if pipe.vae.shift_factor:
        raise OvertoneError(
            "diffusers' DiTPipeline does not support the shift_factor of this VAE: sample"
            " with Overtone's pipeline."
        )
    pipe.vae.model.register_to_config(scaling_factor=pipe.vae.scaling_factor)
    network: Any = pipe.network
    return DiTPipeline(DiTModel(network), pipe.vae.model, scheduler)
