"""DiffiT: diffusion vision transformers (Hatamizadeh et al. 2023, arXiv 2312.02139).

The image-space network: a U whose cells are a convolution followed by a transformer block with
time-dependent attention (TMSA). Time enters nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from overtone.networks.attention import TimeIn
from overtone.networks.cells import DiffiTCell, TransformerCell
from overtone.networks.layers import (
    ClassEmbedding,
    Downsample,
    Features,
    FourierFeatures,
    Upsample,
    sinusoids,
)
from overtone.networks.network import Network
from overtone.networks.unet import AggregationNet, Cells, Place, UNet


@dataclass(frozen=True)
class DiffiTConfig:
    """Settings of `DiffiTUNet`; the defaults are the published CIFAR-10 network."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    kind: Literal["DiffiTUNet"] = "DiffiTUNet"
    resolution: int = 32
    """image height and width in pixels"""
    channels: int = 3
    """channels of the image"""
    num_classes: int = 0
    """0: unconditional"""
    widths: tuple[int, ...] = (128, 256, 256)
    """channels a level, full resolution first"""
    num_cells: tuple[int, ...] = (4, 4, 4)
    """DiffiT cells a level of the encoder; the decoder has one more"""
    window: int = 4
    """attention stays within windows of this many pixels a side"""
    head_channels: int = 32
    """width of an attention head"""
    token_width: int = 512
    """width of the time token"""
    mlp_ratio: float = 4.0
    """hidden width of a block's MLP over its width"""
    dropout: float = 0.0
    """probability of dropping a feature in training"""
    time_in: TimeIn = "tmsa"
    """where the time enters a block: queries, keys and values; a token attended to separately; the
    MLP; the position bias; or nowhere"""
    time_embedding: Literal["positional", "fourier"] = "positional"
    """sinusoids of the time, or fixed random Fourier features"""
    augment_channels: int = 0
    """number of augmentation conditions (EDM: 9)"""
    encoder: Literal["vit", "multi_resolution", "diffit"] = "diffit"
    """DiffiT cells, plain transformer blocks at every level, or a plain ViT at the lowest one"""
    decoder: Literal["aggregation", "multi_resolution", "diffit"] = "diffit"
    """DiffiT cells, plain transformer blocks, or SETR's multi-level aggregation instead of a U"""

    def __post_init__(self) -> None:
        for name in ("resolution", "channels", "window", "head_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.token_width < 2 or self.token_width % 2:
            raise ValueError(f"token_width must be even, not {self.token_width}")
        if self.encoder == "vit" and self.decoder != "aggregation":
            raise ValueError(
                "encoder vit has one resolution and no skips for a U: it needs decoder aggregation"
            )
        halves = {self.encoder, self.decoder}
        if self.time_in != "tmsa" and "diffit" not in halves:
            raise ValueError(f"time_in {self.time_in} is a setting of DiffiT cells; there are none")
        if self.time_in == "none" and halves != {"diffit"}:
            raise ValueError("time_in none needs DiffiT cells throughout: others add the time")
        if self.time_in == "none" and (self.num_classes or self.augment_channels):
            raise ValueError("time_in none leaves no way in for classes or augmentations either")

    @classmethod
    def cifar10(cls, cells: Literal["H.1", "I.1"] = "H.1") -> DiffiTConfig:
        """32 px, widths 128, 256, 256, window 4.

        The paper gives two numbers of cells a level: (4, 4, 4) in its appendix H.1 and (2, 2, 2)
        in I.1.
        """
        return cls(num_cells=(4, 4, 4) if cells == "H.1" else (2, 2, 2))

    @classmethod
    def ffhq64(cls, cells: Literal["H.1", "I.1"] = "H.1") -> DiffiTConfig:
        """64 px, widths 128, 256, 256, 256, window 8; (4, 4, 4, 4) cells or (1, 2, 2, 2)."""
        return cls(
            resolution=64,
            widths=(128, 256, 256, 256),
            num_cells=(4, 4, 4, 4) if cells == "H.1" else (1, 2, 2, 2),
            window=8,
        )


class _DiffiTCells(Cells):
    def __init__(self, config: DiffiTConfig) -> None:
        self.config = config

    def cell(self, in_channels: int, out_channels: int, place: Place) -> nn.Module:
        config = self.config
        if out_channels % config.head_channels:
            raise ValueError(f"width {out_channels} does not divide into heads of"
                             f" {config.head_channels} channels")  # fmt: skip
        if place.resolution % config.window and config.encoder != "vit":
            raise ValueError(
                f"level {place.level} is {place.resolution} pixels wide, which does not divide"
                f" into windows of {config.window}: choose another resolution or window"
            )
        heads = out_channels // config.head_channels
        half = config.decoder if place.stage == "decoder" else config.encoder
        if half == "diffit":
            return DiffiTCell(
                in_channels,
                out_channels,
                config.token_width,
                heads,
                config.window,
                config.mlp_ratio,
                config.dropout,
                config.time_in,
            )
        # A plain ViT attends over the whole of its one level.
        window = place.resolution if half == "vit" else config.window
        return TransformerCell(
            in_channels,
            out_channels,
            config.token_width,
            heads,
            window,
            config.mlp_ratio,
            config.dropout,
        )

    def down(self, channels: int) -> nn.Module:
        return Downsample(channels)

    def up(self, channels: int) -> nn.Module:
        return Upsample(channels)


class TimeToken(nn.Module):
    """x_t: embedding of the time -> Linear -> SiLU -> Linear, plus class and augmentation."""

    def __init__(self, config: DiffiTConfig) -> None:
        super().__init__()
        width = config.token_width
        self.width = width
        self.fourier = FourierFeatures(width) if config.time_embedding == "fourier" else None
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = ClassEmbedding(config.num_classes, width) if config.num_classes else None
        augment = config.augment_channels
        self.augment = nn.Linear(augment, width, bias=False) if augment else None

    def forward(
        self, time: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None
    ) -> Tensor:
        embedded = sinusoids(time, self.width) if self.fourier is None else self.fourier(time)
        token = self.mlp(embedded)
        if self.classes is not None and class_labels is not None:
            token = token + self.classes(class_labels)
        if self.augment is not None and augment_labels is not None:
            token = token + self.augment(augment_labels)
        return token


class DiffiTUNet(Network):
    """The U with DiffiT cells, and the networks that the paper's ablations compare it with.

    Called as `network(x, time, class_labels, augment_labels)`: x (batch, channels, height, width),
    time (batch,), labels integers in [0, num_classes], where num_classes or None asks for no class.
    Height and width may differ from the resolution; each level must divide into windows.
    """

    config_class = DiffiTConfig
    config: DiffiTConfig

    def __init__(self, config: DiffiTConfig | None = None) -> None:
        config = config or DiffiTConfig()
        super().__init__(config)
        # Without a way in it would be weights that are never trained.
        self.token = None if config.time_in == "none" else TimeToken(config)
        cells, channels = _DiffiTCells(config), config.channels
        widths, num_cells, patch = config.widths, config.num_cells, 1
        if config.encoder == "vit":  # one level, where a U has its lowest
            widths, num_cells, patch = widths[-1:], (sum(num_cells),), 2 ** (len(widths) - 1)
        self.unet: UNet | AggregationNet
        if config.decoder == "aggregation":
            self.unet = AggregationNet(
                cells, config.resolution, channels, channels, widths, num_cells, patch
            )
        else:
            self.unet = UNet(
                cells, config.resolution, channels, channels, widths, num_cells, num_middle=1
            )

    def forward(
        self,
        x: Features,
        time: Float[Tensor, " batch"],
        class_labels: Int[Tensor, " batch"] | None = None,
        augment_labels: Float[Tensor, "batch conditions"] | None = None,
    ) -> Features:
        if self.token is None:
            return self.unet(x, x.new_zeros(len(x), self.config.token_width))
        return self.unet(x, self.token(time, class_labels, augment_labels))
