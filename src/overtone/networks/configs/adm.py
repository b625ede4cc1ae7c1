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
    """image height and width in pixels"""
    channels: Size = 3
    """channels of the image"""
    num_classes: SizeOrNone = 0
    """0: unconditional"""
    widths: tuple[Size, ...] = (128, 256, 256)
    """channels a level, full resolution first"""
    num_cells: Depth = 2
    """residual cells a level of the encoder; the decoder has one more"""
    attention_resolutions: tuple[Size, ...] = (16, 8)
    """levels, by their resolution, whose cells attend"""
    head_channels: Size = 64
    """width of an attention head"""
    embedding_width: Size = 512
    """width of the time embedding"""
    augment_channels: SizeOrNone = 0
    """number of augmentation conditions (EDM: 9)"""
    dropout: Dropout = 0.1
    """probability of dropping a feature in training"""
    layout: Literal["adm", "ldm"] = "adm"
    """ldm: the time is added to features, not modulating them, and plain convolutions lead from
    level to level"""

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
