"""DiffiT: diffusion vision transformers (Hatamizadeh et al. 2023, arXiv 2312.02139).

The image-space network: a U whose cells are a convolution followed by a transformer block with
time-dependent attention (TMSA). Time enters nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from overtone.networks.cells import DiffiTCell
from overtone.networks.layers import ClassEmbedding, Downsample, Features, Upsample, sinusoids
from overtone.networks.network import Network
from overtone.networks.unet import Cells, Place, UNet


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

    def __post_init__(self) -> None:
        for name in ("resolution", "channels", "window", "head_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.token_width < 2 or self.token_width % 2:
            raise ValueError(f"token_width must be even, not {self.token_width}")

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
        if place.resolution % config.window:
            raise ValueError(
                f"level {place.level} is {place.resolution} pixels wide, which does not divide"
                f" into windows of {config.window}: choose another resolution or window"
            )
        return DiffiTCell(
            in_channels,
            out_channels,
            config.token_width,
            heads=out_channels // config.head_channels,
            window=config.window,
            mlp_ratio=config.mlp_ratio,
            dropout=config.dropout,
        )

    def down(self, channels: int) -> nn.Module:
        return Downsample(channels)

    def up(self, channels: int) -> nn.Module:
        return Upsample(channels)


class TimeToken(nn.Module):
    """x_t: positional embedding of the time -> Linear -> SiLU -> Linear, plus the class."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.width = width
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = ClassEmbedding(num_classes, width) if num_classes else None

    def forward(self, time: Tensor, class_labels: Tensor | None) -> Tensor:
        token = self.mlp(sinusoids(time, self.width))
        if self.classes is not None and class_labels is not None:
            token = token + self.classes(class_labels)
        return token


class DiffiTUNet(Network):
    """The U with DiffiT cells.

    Called as `network(x, time, class_labels)`: x (batch, channels, height, width), time (batch,),
    labels integers in [0, num_classes], where num_classes or None asks for no class. Height and
    width may differ from the resolution; each level must divide into windows.
    """

    config_class = DiffiTConfig
    config: DiffiTConfig

    def __init__(self, config: DiffiTConfig | None = None) -> None:
        config = config or DiffiTConfig()
        super().__init__(config)
        self.token = TimeToken(config.token_width, config.num_classes)
        self.unet = UNet(
            _DiffiTCells(config),
            config.resolution,
            config.channels,
            config.channels,
            config.widths,
            config.num_cells,
            num_middle=1,
        )

    def forward(
        self,
        x: Features,
        time: Float[Tensor, " batch"],
        class_labels: Int[Tensor, " batch"] | None = None,
    ) -> Features:
        return self.unet(x, self.token(time, class_labels))
