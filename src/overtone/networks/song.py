"""DDPM++ and NCSN++ (Song et al. 2021, arXiv 2011.13456) in the form EDM trains them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from overtone.networks.attention import SelfAttention, TimeAttention
from overtone.networks.cells import ResidualCell
from overtone.networks.configs.song import SongConfig
from overtone.networks.layers import Features, FourierFeatures, Output, Resample, sinusoids
from overtone.networks.network import ClassTable, Network, Spot
from overtone.networks.unet import Cells, Place, UNet
from overtone.sizes import divides, resolution_of, shown

EPS = 1e-6
SKIP_SCALE = 0.5**0.5


class _SongCells(Cells):
    def __init__(self, config: SongConfig) -> None:
        self.config = config

    def cell(self, in_channels: int, out_channels: int, place: Place) -> nn.Module:
        config = self.config
        attends = place.resolution in config.attention_resolutions
        if place.stage == "middle":
            attends = place.number == 0
        if place.stage == "decoder":
            attends = attends and place.last
        attention: nn.Module | None = None
        if attends and out_channels % config.heads:
            raise ValueError(f"width {out_channels} does not divide into {config.heads} heads")
        if attends and config.attention == "tmsa":
            window = config.window or resolution_of(*place.size)
            if config.window and not divides(place.size, config.window):
                raise ValueError(
                    f"{shown(resolution_of(*place.size))} pixels do not divide into windows of"
                    f" {config.window}"
                )
            attention = TimeAttention(
                out_channels, config.heads, config.embedding_width, window, EPS, SKIP_SCALE
            )
        elif attends:
            attention = SelfAttention(out_channels, config.heads, EPS, SKIP_SCALE)
        return self._residual(in_channels, out_channels, attention)

    def down(self, channels: int) -> nn.Module:
        return self._residual(
            channels, channels, resample=Resample("down", self.config.filter_taps)
        )

    def up(self, channels: int) -> nn.Module:
        resample = Resample("up", self.config.filter_taps)
        return self._residual(channels, channels, resample=resample)

    def pyramid(self, in_channels: int, out_channels: int) -> nn.Module | None:
        config = self.config
        if not config.residual_encoder:
            return None
        return FilteredDown(in_channels, out_channels, config.filter_taps)

    def _residual(
        self,
        in_channels: int,
        out_channels: int,
        attention: nn.Module | None = None,
        resample: Resample | None = None,
    ) -> ResidualCell:
        return ResidualCell(
            in_channels,
            out_channels,
            self.config.embedding_width,
            attention,
            self.config.dropout,
            resample,
            EPS,
            modulation="add",
            skip_scale=SKIP_SCALE,
            skip_conv=resample is not None,
        )


class FilteredDown(nn.Module):
    """A 3x3 convolution, then the filter with stride 2, as one: the edges are padded once."""

    def __init__(self, in_channels: int, out_channels: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1 + (len(taps) - 1) // 2)
        self.resample = Resample("down", taps)
        self.resample.padding = 0

    def forward(self, x: Features) -> Float[Tensor, "batch out_channels half_height half_width"]:
        return self.resample(self.conv(x))


class SongEmbedding(nn.Module):
    """silu(lin1(silu(lin0(features(time) + class + augment))))."""

    def __init__(self, config: SongConfig) -> None:
        super().__init__()
        width, count = config.embedding_width, config.frequencies
        self.count = count
        self.fourier = FourierFeatures(count) if config.time_embedding == "fourier" else None
        self.num_classes = config.num_classes
        self.classes = nn.Linear(config.num_classes, count) if config.num_classes else None
        augment = config.augment_channels
        self.augment = nn.Linear(augment, count, bias=False) if augment else None
        self.lin0 = nn.Linear(count, width)
        self.lin1 = nn.Linear(width, width)

    def forward(
        self, time: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None
    ) -> Tensor:
        if self.fourier is not None:
            features = self.fourier(time)
        else:
            features = sinusoids(time, self.count, to_the_end=True)
        embedding = torch.cat(features.chunk(2, dim=1)[::-1], dim=1)  # here the sines come first
        embedding = embedding.to(self.lin0.weight.dtype)
        if self.classes is not None:
            # The null class, one past the last, is the vector of zeros: it leaves the bias.
            if class_labels is None:
                one_hot = embedding.new_zeros(len(embedding), self.num_classes)
            else:
                # Not F.one_hot, which looks at the labels and so waits for the device.
                classes = torch.arange(self.num_classes, device=class_labels.device)
                one_hot = (class_labels[:, None] == classes).to(embedding.dtype)
            embedding = embedding + self.classes(one_hot * math.sqrt(self.num_classes))
        if self.augment is not None and augment_labels is not None:
            embedding = embedding + self.augment(augment_labels)
        return F.silu(self.lin1(F.silu(self.lin0(embedding))))


class SongUNet(Network):
    """DDPM++ and NCSN++ (Song et al. 2021, arXiv 2011.13456), with self-attention or DiffiT's TMSA.

    Called as `network(x, time, class_labels, augment_labels)`: x (batch, channels, height, width),
    time (batch,), labels integers in [0, num_classes], where num_classes or None asks for no class.
    """

    config_class = SongConfig
    config: SongConfig

    def __init__(self, config: SongConfig | None = None) -> None:
        config = config or SongConfig()
        super().__init__(config)
        self.embedding = SongEmbedding(config)
        self.unet = UNet(
            _SongCells(config),
            config.resolution,
            config.channels,
            config.channels,
            config.widths,
            (config.num_cells,) * len(config.widths),
            num_middle=2,
            eps=EPS,
            stem_width=config.stem_width,
        )

    def forward(
        self,
        x: Features,
        time: Float[Tensor, " batch"],
        class_labels: Int[Tensor, " batch"] | None = None,
        augment_labels: Float[Tensor, "batch conditions"] | None = None,
    ) -> Output:
        return self.unet(x, self.embedding(time, class_labels, augment_labels))

    def class_tables(self) -> Iterator[ClassTable]:
        if self.config.num_classes:
            yield ClassTable("embedding.classes.weight", 1, math.sqrt(self.config.num_classes))

    def temporal_spots(self) -> Iterator[Spot]:
        return self.unet.spots()
