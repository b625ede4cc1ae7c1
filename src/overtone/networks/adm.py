"""ADM's U-Net (Dhariwal & Nichol 2021, arXiv 2105.05233) in the form EDM trains it, and latent
diffusion's (Rombach et al. 2022, arXiv 2112.10752), which is its predecessor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from overtone.networks.attention import SelfAttention
from overtone.networks.cells import ResidualCell
from overtone.networks.configs.adm import ADMConfig
from overtone.networks.layers import (
    ClassEmbedding,
    Downsample,
    Features,
    Output,
    Resample,
    Upsample,
    sinusoids,
)
from overtone.networks.network import Network, Spot
from overtone.networks.unet import Cells, Place, UNet


class ADMCells(Cells):
    """The parts of ADM's U."""

    def __init__(self, config: ADMConfig) -> None:
        self.config = config
        self.adm = config.layout == "adm"

    def cell(self, in_channels: int, out_channels: int, place: Place) -> nn.Module:
        config = self.config
        attends = self.attends(place)
        heads = out_channels // config.head_channels if attends else 0
        if attends and (heads == 0 or out_channels % config.head_channels):
            raise ValueError(f"width {out_channels} does not divide into heads of"
                             f" {config.head_channels} channels")  # fmt: skip
        attention = SelfAttention(out_channels, heads) if attends else None
        return ResidualCell(
            in_channels,
            out_channels,
            config.embedding_width,
            attention,
            config.dropout,
            modulation="scale_shift" if self.adm else "add",
        )

    def attends(self, place: Place) -> bool:
        """Whether the cell at a place ends in attention."""
        if place.stage == "middle":
            return place.number == 0
        return place.resolution in self.config.attention_resolutions

    def down(self, channels: int) -> nn.Module:
        return self._transition(channels, "down") if self.adm else Downsample(channels)

    def up(self, channels: int) -> nn.Module:
        return self._transition(channels, "up") if self.adm else Upsample(channels)

    def _transition(self, channels: int, direction: Literal["down", "up"]) -> nn.Module:
        config, resample = self.config, Resample(direction)
        return ResidualCell(
            channels, channels, config.embedding_width, None, config.dropout, resample
        )


class ADMEmbedding(nn.Module):
    """silu(lin1(silu(lin0(sinusoids(time) + augment))) + class)."""

    def __init__(self, config: ADMConfig) -> None:
        super().__init__()
        self.frequencies = config.widths[0]
        width = config.embedding_width
        self.lin0 = nn.Linear(self.frequencies, width)
        self.lin1 = nn.Linear(width, width)
        augment = config.augment_channels
        self.augment = nn.Linear(augment, self.frequencies, bias=False) if augment else None
        self.classes = ClassEmbedding(config.num_classes, width) if config.num_classes else None

    def forward(
        self, time: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None
    ) -> Tensor:
        embedding = sinusoids(time, self.frequencies).to(self.lin0.weight.dtype)
        if self.augment is not None and augment_labels is not None:
            embedding = embedding + self.augment(augment_labels)
        embedding = self.lin1(F.silu(self.lin0(embedding)))
        if self.classes is not None and class_labels is not None:
            embedding = embedding + self.classes(class_labels)
        return F.silu(embedding)


class ADMUNet(Network):
    """ADM's U-Net (Dhariwal & Nichol 2021, arXiv 2105.05233), or, with the layout ldm, latent
    diffusion's (Rombach et al. 2022, arXiv 2112.10752).

    Called as `network(x, time, class_labels, augment_labels)`: x (batch, channels, height, width),
    time (batch,), labels integers in [0, num_classes], where num_classes or None asks for no class.
    """

    config_class: ClassVar[type[ADMConfig]] = ADMConfig
    config: ADMConfig
    cells: ClassVar[type[ADMCells]] = ADMCells

    def __init__(self, config: ADMConfig | None = None) -> None:
        config = config or self.config_class()
        super().__init__(config)
        self.embedding = ADMEmbedding(config)
        self.unet = UNet(
            self.cells(config),
            config.resolution,
            config.channels,
            config.channels,
            config.widths,
            (config.num_cells,) * len(config.widths),
            num_middle=2,
        )

    def forward(
        self,
        x: Features,
        time: Float[Tensor, " batch"],
        class_labels: Int[Tensor, " batch"] | None = None,
        augment_labels: Float[Tensor, "batch conditions"] | None = None,
    ) -> Output:
        return self.unet(x, self.embedding(time, class_labels, augment_labels))

    def temporal_spots(self) -> Iterator[Spot]:
        return self.unet.spots()
