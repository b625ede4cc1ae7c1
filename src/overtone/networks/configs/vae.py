"""Settings of a VAE to train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from overtone.networks.configs.network import Building
from overtone.ranges import Depth, Size
from overtone.sizes import Resolution, divides, shown


@dataclass(frozen=True)
class VAEConfig(Building, family="VAE", kind="VAE"):
    """Settings of an `AutoencoderKL` to train."""

    builds: ClassVar[str] = "overtone.networks.vae:VAE.build"

    resolution: Resolution = 32
    """The height and width of images, in pixels."""
    channels: Size = 3
    """The number of channels of an image."""
    latent_channels: Size = 4
    """The number of channels of the latents."""
    widths: tuple[Size, ...] = (32, 64, 64)
    """The number of channels at each level. Each level but the last halves the resolution."""
    num_cells: Depth = 1
    """The number of residual cells at each level."""
    groups: Size = 8
    """The number of groups of the group norms."""
    attention: bool = False
    """Attend over all pixels at the lowest resolution."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths:
            raise ValueError("widths are those of one level at least")
        if any(width % self.groups for width in self.widths):
            raise ValueError(f"widths {self.widths} do not divide into {self.groups} groups")
        if not divides(self.resolution, 2 ** (len(self.widths) - 1)):
            raise ValueError(
                f"resolution {shown(self.resolution)} can't be halved {len(self.widths) - 1} times"
            )
