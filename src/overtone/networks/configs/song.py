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
    """The height and width of images, in pixels."""
    channels: Size = 3
    """The number of channels of an image."""
    num_classes: SizeOrNone = 0
    """The number of classes. 0 makes the network unconditional."""
    widths: tuple[Size, ...] = (256, 256, 256)
    """The number of channels at each level, the full resolution first."""
    stem_width: Size = 128
    """The number of channels of the first convolution."""
    num_cells: Depth = 4
    """The number of residual cells at each level of the encoder. The decoder has one more at each
    level."""
    attention_resolutions: tuple[Size, ...] = (16,)
    """The levels whose cells have attention, each named by its resolution in pixels."""
    attention: Literal["self", "tmsa"] = "self"
    """The kind of attention: self-attention over all pixels (self), or DiffiT's time-dependent
    attention (tmsa)."""
    window: Size | None = None
    """The height and width, in pixels, of the windows that TMSA stays within. If it is not given,
    TMSA covers the whole level."""
    heads: Size = 1
    """The number of attention heads."""
    frequencies: Size = 128
    """The number of the time's sinusoids or Fourier features."""
    embedding_width: Size = 512
    """The width of the time embedding."""
    time_embedding: Literal["positional", "fourier"] = "positional"
    """How the time is embedded: by sinusoids (positional, DDPM++) or by fixed random Fourier
    features (fourier, NCSN++)."""
    filter_taps: tuple[Tap, ...] = (1, 1)
    """The taps of the filter that resampling cells use: (1, 1), or NCSN++'s (1, 3, 3, 1)."""
    residual_encoder: bool = False
    """Downsample the input beside the features and add it to them at each level, as NCSN++ does."""
    augment_channels: SizeOrNone = 0
    """The number of augmentation conditions. EDM has 9."""
    dropout: Dropout = 0.1
    """The probability that a feature is dropped in training."""

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
