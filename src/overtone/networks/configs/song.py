"""Settings of DDPM++ and NCSN++ (Song et al. 2021), in the form of EDM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from overtone.networks.configs.network import WithAugmentation
from overtone.ranges import Depth, Dropout, Size, SizeOrNone, Tap
from overtone.sizes import Resolution, rescaled

MOST_TAPS = 64


@dataclass(frozen=True)
class SongConfig(WithAugmentation, kind="SongUNet"):
    """Settings of `SongUNet`; the defaults are DDPM++ for CIFAR-10."""

    builds: ClassVar[str] = "overtone.networks.song:SongUNet"

    resolution: Resolution = 32
    """image height and width in pixels"""
    channels: Size = 3
    """channels of the image"""
    num_classes: SizeOrNone = 0
    """0: unconditional"""
    widths: tuple[Size, ...] = (256, 256, 256)
    """channels a level, full resolution first"""
    stem_width: Size = 128
    """channels of the first convolution"""
    num_cells: Depth = 4
    """residual cells a level of the encoder; the decoder has one more"""
    attention_resolutions: tuple[Size, ...] = (16,)
    """levels, by their resolution, whose cells attend"""
    attention: Literal["self", "tmsa"] = "self"
    """self-attention over all pixels, or DiffiT's time-dependent attention"""
    window: Size | None = None
    """TMSA stays within windows of this many pixels a side; none: the whole level"""
    heads: Size = 1
    """attention heads"""
    frequencies: Size = 128
    """width of the time's sinusoids or Fourier features"""
    embedding_width: Size = 512
    """width of the time embedding"""
    time_embedding: Literal["positional", "fourier"] = "positional"
    """sinusoids of the time (DDPM++), or fixed random Fourier features (NCSN++)"""
    filter_taps: tuple[Tap, ...] = (1, 1)
    """of the filter that resampling cells use: (1, 1) or NCSN++'s (1, 3, 3, 1)"""
    residual_encoder: bool = False
    """the input goes down beside the features and is added to them (NCSN++)"""
    augment_channels: SizeOrNone = 0
    """number of augmentation conditions (EDM: 9)"""
    dropout: Dropout = 0.1
    """probability of dropping a feature in training"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frequencies < 4 or self.frequencies % 2:
            raise ValueError(f"frequencies must be even and at least 4, not {self.frequencies}")
        if len(self.filter_taps) > MOST_TAPS:
            raise ValueError(f"filter_taps are at most {MOST_TAPS}, not {len(self.filter_taps)}")
        if len(self.filter_taps) % 2 or not sum(self.filter_taps):
            raise ValueError(f"filter_taps are an even number of taps, not {self.filter_taps}")

    @classmethod
    def ddpmpp(cls, resolution: Literal[32, 64] = 32, num_classes: int = 0) -> SongConfig:
        """EDM's DDPM++, for CIFAR-10 (32 px) or FFHQ (64 px); 9 augmentation conditions."""
        widths = (256, 256, 256) if resolution == 32 else (128, 256, 256, 256)
        return cls(
            resolution=resolution,
            num_classes=num_classes,
            widths=widths,
            augment_channels=9,
            dropout=0.13 if resolution == 32 else 0.05,
        )

    @classmethod
    def ncsnpp(cls, resolution: Literal[32, 64] = 32, num_classes: int = 0) -> SongConfig:
        """EDM's NCSN++: Fourier features, FIR filters, residual encoder; else as `ddpmpp`."""
        return replace(
            cls.ddpmpp(resolution, num_classes),
            frequencies=256,
            time_embedding="fourier",
            filter_taps=(1, 3, 3, 1),
            residual_encoder=True,
        )

    def with_images(self, resolution: Resolution, channels: int) -> Any:
        levels = rescaled(self.attention_resolutions, self.resolution, resolution)
        changed = super().with_images(resolution, channels)
        return replace(changed, attention_resolutions=levels)
