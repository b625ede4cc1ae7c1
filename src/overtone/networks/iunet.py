"""iU-Net: a U-Net whose encoder mixes convolution and attention in a ratio of its own each level.

MEME (Lee et al. 2023, arXiv 2306.04990). Near the clean image convolution restores high
frequencies, near noise attention restores low ones: each expert, and each level of it, has its
ratio. Replacing cells of the encoder only is the paper's finding.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from overtone.networks.adm import ADMCells, ADMUNet
from overtone.networks.configs.iunet import IUNetConfig
from overtone.networks.inception import InceptionCell
from overtone.networks.unet import Place


class _IUNetCells(ADMCells):
    """In the encoder a residual cell without attention, then an inception cell, and so on."""

    config: IUNetConfig

    def __init__(self, config: IUNetConfig) -> None:
        super().__init__(config)
        self.low_heads = config.attending

    def cell(self, in_channels: int, out_channels: int, place: Place) -> nn.Module:
        if place.stage != "encoder" or place.number % 2 == 0:
            return super().cell(in_channels, out_channels, place)
        config = self.config
        return InceptionCell(
            out_channels,
            out_channels // config.head_channels,
            self.low_heads[place.level],
            pool=2 if place.resolution > config.pool_above else 1,
            mlp_ratio=config.mlp_ratio,
            embedding_width=config.embedding_width,
            dropout=config.dropout,
        )

    def attends(self, place: Place) -> bool:
        return place.stage != "encoder" and super().attends(place)


class IUNet(ADMUNet):
    """MEME's iU-Net (Lee et al. 2023, arXiv 2306.04990): ADM's or latent diffusion's U-Net with
    inception cells in its encoder. It is called as `ADMUNet` is."""

    config_class = IUNetConfig
    config: IUNetConfig
    cells: ClassVar[type[ADMCells]] = _IUNetCells
