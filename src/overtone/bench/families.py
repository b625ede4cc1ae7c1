"""The networks that are compared, those of Overtone first: U-Nets of 3 x 32 x 32 images,
transformers of 4 x 32 x 32 latents.

Peers' networks are those that their documentation begins with, at the same places of attention (at
16 x 16 pixels, or as deep as theirs goes) and with the same patch, and of any width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from overtone.bench.subjects import Family

IMAGES = (3, 32, 32)
LATENTS = (4, 32, 32)
DEPTH = 12
"""blocks of a transformer"""
HEAD = 64
"""channels of a transformer's head"""


def adm(width: int) -> nn.Module:
    from overtone.networks import ADMConfig

    config = ADMConfig(widths=(width,) * 3, num_cells=2, attention_resolutions=(16,), dropout=0.0)
    return config.build()


def diffit(width: int) -> nn.Module:
    from overtone.networks import DiffiTTransformerConfig

    config = DiffiTTransformerConfig(
        resolution=32, channels=4, num_classes=0, width=width, depth=DEPTH, heads=width // HEAD
    )
    return config.build()


def diffusers_unet(width: int) -> Any:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=32,
        block_out_channels=(width, width, width),
        norm_num_groups=8,
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )


def diffusers_dit(width: int) -> Any:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=width // HEAD,
        attention_head_dim=HEAD,
        in_channels=4,
        out_channels=4,
        num_layers=DEPTH,
        sample_size=32,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )


def ddpm_unet(width: int) -> nn.Module:
    from denoising_diffusion_pytorch import Unet

    return Unet(dim=width, dim_mults=(1, 2, 2), full_attn=(False, True, False))


def small_unet(width: int) -> nn.Module:
    from smalldiffusion import Unet

    return Unet(32, 3, 3, ch=width, ch_mult=(1, 1, 1), dropout=0.0)


def small_dit(width: int) -> nn.Module:
    from smalldiffusion import DiT

    return DiT(in_dim=32, channels=4, patch_size=2, depth=DEPTH, head_dim=HEAD,
               num_heads=width // HEAD)  # fmt: skip


class _AzulaUNet(nn.Module):
    """azula's U-Net has no embedding of the time: that of its documentation is before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        from azula.nn.layers import SineEncoding
        from azula.nn.unet import UNet

        self.embed = nn.Sequential(SineEncoding(256), nn.Linear(256, 256), nn.SiLU())
        self.net = UNet(3, 3, hid_channels=(width,) * 3, hid_blocks=(2, 2, 2), mod_features=256)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.net(x, self.embed(time))


class _AzulaDiT(nn.Module):
    """The same for its transformer, which takes tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        from azula.nn.dit import DiT
        from azula.nn.layers import Patchify, SineEncoding, Unpatchify

        self.embed = nn.Sequential(SineEncoding(256), nn.Linear(256, 256), nn.SiLU())
        self.patch, self.unpatch = (
            Patchify((2, 2), channel_last=True),
            Unpatchify((2, 2), channel_last=True),
        )
        self.net = DiT(16, 16, mod_features=256, pos_channels=2, hid_channels=width,
                       hid_blocks=DEPTH, attention_heads=width // HEAD)  # fmt: skip
        grid = torch.arange(16.0)
        self.register_buffer("places", torch.cartesian_prod(grid, grid))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        tokens = self.patch(x)
        out = self.net(tokens.flatten(1, 2), self.embed(time), self.places)
        return self.unpatch(out.view(tokens.shape))


def _own(network: nn.Module, x: Tensor, time: Tensor) -> Tensor:
    """A transformer also answers with a variance, behind the image."""
    return network(x, time.log())[:, : x.shape[1]]


def _steps(network: nn.Module, x: Tensor, time: Tensor) -> Tensor:
    """diffusers' U-Net is told the number of a step, and answers in a structure."""
    return network(x, (999 * time).long()).sample


def _class(network: nn.Module, x: Tensor, time: Tensor) -> Tensor:
    """Its transformer is told a class as well."""
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
    return network(x, timestep=(999 * time).long(), class_labels=labels).sample


WIDE = range(16, 513, 8)
HEADS = range(HEAD, 16 * HEAD + 1, HEAD)

UNETS: dict[str, Family] = {
    "overtone": Family(adm, WIDE, _own),
    "diffusers": Family(diffusers_unet, WIDE, _steps),
    "denoising-diffusion-pytorch": Family(ddpm_unet, WIDE),
    "smalldiffusion": Family(small_unet, range(32, 513, 32)),
    "azula": Family(_AzulaUNet, WIDE),
}
TRANSFORMERS: dict[str, Family] = {
    "overtone": Family(diffit, HEADS, _own),
    "diffusers": Family(diffusers_dit, HEADS, _class),
    "smalldiffusion": Family(small_dit, HEADS),
    "azula": Family(_AzulaDiT, HEADS),
}
FAMILIES: dict[str, tuple[tuple[int, int, int], int, dict[str, Family]]] = {
    "unet": (IMAGES, 64, UNETS),
    "transformer": (LATENTS, 4 * HEAD, TRANSFORMERS),
}
"""the shape of an image, Overtone's width, and the networks, by kind"""
