"""Settings of DiffiT's two networks (Hatamizadeh et al. 2023, arXiv 2312.02139)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from overtone.networks.configs.network import NetworkConfig, WithAugmentation
from overtone.ranges import Depth, Dropout, Ratio, Size, SizeOrNone
from overtone.sizes import Resolution, divides, shown

TimeIn = Literal["tmsa", "separate", "mlp", "bias", "none"]
"""Where the time enters a transformer block: DiffiT's ablations, formulas in `DiffiTBlock`."""


@dataclass(frozen=True)
class DiffiTConfig(WithAugmentation, kind="DiffiTUNet"):
    """Settings of `DiffiTUNet`; the defaults are the published CIFAR-10 network."""

    builds: ClassVar[str] = "overtone.networks.diffit:DiffiTUNet"

    resolution: Resolution = 32
    """image height and width in pixels"""
    channels: Size = 3
    """channels of the image"""
    num_classes: SizeOrNone = 0
    """0: unconditional"""
    widths: tuple[Size, ...] = (128, 256, 256)
    """channels a level, full resolution first"""
    num_cells: tuple[Depth, ...] = (4, 4, 4)
    """DiffiT cells a level of the encoder; the decoder has one more"""
    window: Size = 4
    """attention stays within windows of this many pixels a side"""
    head_channels: Size = 32
    """width of an attention head"""
    token_width: Size = 512
    """width of the time token"""
    mlp_ratio: Ratio = 4.0
    """hidden width of a block's MLP over its width"""
    dropout: Dropout = 0.0
    """probability of dropping a feature in training"""
    time_in: TimeIn = "tmsa"
    """where the time enters a block: queries, keys and values; a token attended to separately; the
    MLP; the position bias; or nowhere"""
    time_embedding: Literal["positional", "fourier"] = "positional"
    """sinusoids of the time, or fixed random Fourier features"""
    augment_channels: SizeOrNone = 0
    """number of augmentation conditions (EDM: 9)"""
    encoder: Literal["vit", "multi_resolution", "diffit"] = "diffit"
    """a plain ViT at the lowest level, plain transformer blocks at every level, or DiffiT cells"""
    decoder: Literal["aggregation", "multi_resolution", "diffit"] = "diffit"
    """the multi-level aggregation of SETR (arXiv 2012.15840) instead of a U, plain transformer
    blocks, or DiffiT cells"""

    def __post_init__(self) -> None:
        super().__post_init__()
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


@dataclass(frozen=True)
class DiffiTTransformerConfig(NetworkConfig, kind="DiffiTTransformer"):
    """Settings of `DiffiTTransformer`; the defaults are the published 256 px network's, but for its
    classes."""

    builds: ClassVar[str] = "overtone.networks.diffit:DiffiTTransformer"

    resolution: Resolution = 32
    """height and width of the latents: an eighth of the image's, with Stable Diffusion's VAE"""
    channels: Size = 4
    """channels of the latents"""
    num_classes: SizeOrNone = 0
    """0: unconditional"""
    patch: Size = 2
    """height and width of the patch that makes a token"""
    width: Size = 1152
    """width of the tokens"""
    depth: Depth = 28
    """number of blocks"""
    heads: Size = 16
    """attention heads"""
    mlp_ratio: Ratio = 4.0
    """hidden width of a block's MLP over its width"""
    time_features: Size = 256
    """number of sinusoids that the time is embedded in"""
    learned_variance: bool = True
    """return, behind the noise, where the reverse step's variance lies in its range"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not divides(self.resolution, self.patch):
            raise ValueError(
                f"resolution {shown(self.resolution)} does not divide into patches of {self.patch}"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads")
        if self.width % 4:
            raise ValueError(f"width must be a multiple of 4 for its positions, not {self.width}")
        if self.time_features < 2 or self.time_features % 2:
            raise ValueError(f"time_features must be even, not {self.time_features}")

    @classmethod
    def preset(
        cls,
        name: Literal["s-2", "b-2", "l-2", "xl-2-256", "xl-2-512"],
        num_classes: int = 0,
    ) -> DiffiTTransformerConfig:
        """The published networks (xl-2-256 with 561 M parameters, xl-2-512 with 562 M), and smaller
        ones for 256 px in DiT's widths (arXiv 2212.09748, table 1)."""
        depth, width, heads = {
            "s-2": (12, 384, 6),
            "b-2": (12, 768, 12),
            "l-2": (24, 1024, 16),
            "xl-2-256": (28, 1152, 16),
            "xl-2-512": (28, 1152, 16),
        }[name]
        resolution = 64 if name == "xl-2-512" else 32
        return cls(
            resolution=resolution,
            num_classes=num_classes,
            width=width,
            depth=depth,
            heads=heads,
        )

    @property
    def learns_variance(self) -> bool:
        return self.learned_variance
