"""Settings of ADM's and of latent diffusion's U-Net."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

from overtone.networks.configs.network import WithAugmentation
from overtone.ranges import Depth, Dropout, Size, SizeOrNone
from overtone.sizes import Resolution, rescaled

C = TypeVar("C", bound="ADMConfig")


@dataclass(frozen=True)
class ADMConfig(WithAugmentation, kind="ADMUNet"):
    """Settings of `ADMUNet`; the defaults are a small CIFAR-10 network."""

    builds: ClassVar[str] = "overtone.networks.adm:ADMUNet"

    resolution: Resolution = 32
    """The height and width of images, in pixels."""
    channels: Size = 3
    """The number of channels of an image."""
    num_classes: SizeOrNone = 0
    """The number of classes. 0 makes the network unconditional."""
    widths: tuple[Size, ...] = (128, 256, 256)
    """The number of channels at each level, the full resolution first."""
    num_cells: Depth = 2
    """The number of residual cells at each level of the encoder. The decoder has one more at each
    level."""
    attention_resolutions: tuple[Size, ...] = (16, 8)
    """The levels whose cells have self-attention, each named by its resolution in pixels."""
    head_channels: Size = 64
    """The number of channels of an attention head."""
    embedding_width: Size = 512
    """The width of the time embedding."""
    augment_channels: SizeOrNone = 0
    """The number of augmentation conditions. EDM has 9."""
    dropout: Dropout = 0.1
    """The probability that a feature is dropped in training."""
    layout: Literal["adm", "ldm"] = "adm"
    """The layout of the U-Net. With adm the time embedding scales and shifts features, and
    residual cells resample; with ldm it is added to them, and plain convolutions resample."""

    @classmethod
    def ldm(cls: type[C], width: int = 224, **changes: Any) -> C:
        """The U-Net of LDM-4 for 256 px faces: of 64 px latents with 3 channels, 274 M parameters;
        of width 128 it is MEME's LDM-S."""
        usual: dict[str, Any] = {
            "resolution": 64,
            "widths": (width, 2 * width, 3 * width, 4 * width),
            "attention_resolutions": (32, 16, 8),
            "head_channels": 32,
            "embedding_width": 4 * width,
            "dropout": 0.0,
            "layout": "ldm",
        }
        return cls(**usual | changes)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths or self.widths[0] % 2:
            raise ValueError(f"the first of widths must be even, for the embedding: {self.widths}")

    def with_images(self, resolution: Resolution, channels: int) -> Any:
        levels = rescaled(self.attention_resolutions, self.resolution, resolution)
        changed = super().with_images(resolution, channels)
        return replace(changed, attention_resolutions=levels)
