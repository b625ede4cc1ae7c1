"""A small pipeline of each kind, of networks that were never trained."""

from dataclasses import replace

import diffusers
import torch

from helpers import TINY_ADM, TINY_DIFFIT, TINY_TRANSFORMER, awake, tiny_vae
from overtone.denoisers import FlowPreconditioning, VPPreconditioning
from overtone.networks import Experts
from overtone.networks.foreign import DiffusersNetwork
from overtone.pipelines import Pipeline
from overtone.samplers import Sampler


def kinds_of_pipelines():
    def net(config, **changes):
        return awake(replace(config, **changes).build())

    torch.manual_seed(1)
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), layers_per_block=1, norm_num_groups=4,
    )  # fmt: skip
    vp = {"preconditioning": VPPreconditioning()}
    return {
        "EDM": Pipeline(net(TINY_DIFFIT), Sampler(9)),
        "flow": Pipeline(
            net(TINY_ADM), Sampler(9, sigma_max=999.0), preconditioning=FlowPreconditioning()
        ),
        "VP": Pipeline(net(TINY_ADM), Sampler(9, sigma_min=0.01, sigma_max=150.0), **vp),
        "experts": Pipeline(Experts([net(TINY_ADM) for _ in range(2)], (1.0,)), Sampler(9)),
        "latents": Pipeline(
            net(TINY_TRANSFORMER, learned_variance=False), Sampler(9), vae=tiny_vae(),
            image_resolution=16,
        ),
        "diffusers": Pipeline(
            DiffusersNetwork.of(awake(unet)), Sampler(9, sigma_min=0.01, sigma_max=150.0), **vp
        ),
    }  # fmt: skip
