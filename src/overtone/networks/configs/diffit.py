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
    """The height and width of images, in pixels."""
    channels: Size = 3
    """The number of channels of an image."""
    num_classes: SizeOrNone = 0
    """The number of classes. 0 makes the network unconditional."""
    widths: tuple[Size, ...] = (128, 256, 256)
    """The number of channels at each level, the full resolution first."""
    num_cells: tuple[Depth, ...] = (4, 4, 4)
    """The number of DiffiT cells at each level of the encoder. The decoder has one more at each
    level."""
    window: Size = 4
    """The height and width, in pixels, of the windows that attention stays within."""
    head_channels: Size = 32
    """The number of channels of an attention head."""
    token_width: Size = 512
    """The width of the time token."""
    mlp_ratio: Ratio = 4.0
    """The hidden width of a block's MLP, as a multiple of the block's width."""
    dropout: Dropout = 0.0
    """The probability that a feature is dropped in training."""
    time_in: TimeIn = "tmsa"
    """Where the time enters a transformer block: in queries, keys and values (tmsa), as a token of
    its own (separate), in the MLP (mlp), in the position bias (bias), or nowhere (none)."""
    time_embedding: Literal["positional", "fourier"] = "positional"
    """How the time is embedded: by sinusoids (positional) or by fixed random Fourier features
    (fourier)."""
    augment_channels: SizeOrNone = 0
    """The number of augmentation conditions. EDM has 9."""
    encoder: Literal["vit", "multi_resolution", "diffit"] = "diffit"
    """What the encoder consists of: a plain ViT at the lowest level (vit), plain transformer blocks
    at every level (multi_resolution), or DiffiT cells (diffit)."""
    decoder: Literal["aggregation", "multi_resolution", "diffit"] = "diffit"
    """What the decoder consists of: the multi-level aggregation of SETR instead of a U
    (aggregation, arXiv 2012.15840), plain transformer blocks (multi_resolution), or DiffiT cells
    (diffit)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token_width < 2 or self.token_width % 2:
            raise ValueError(f"token_width must be even, not {self.token_width}")
        if self.encoder == "vit" and self.decoder != "aggregation":
            raise ValueError(
                "encoder vit has one resolution and no skip connections: take decoder aggregation"
            )
        halves = {self.encoder, self.decoder}
        if self.time_in != "tmsa" and "diffit" not in halves:
            raise ValueError(f"time_in {self.time_in} is a setting of DiffiT cells; there are none")
        if self.time_in == "none" and halves != {"diffit"}:
            raise ValueError("time_in none needs DiffiT cells throughout: others add the time")
        if self.time_in == "none" and (self.num_classes or self.augment_channels):
            raise ValueError(
                "time_in none takes neither classes nor augmentations: set num_classes and"
                " augment_channels to 0"
            )

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
    """The height and width of the latents. With Stable Diffusion's VAE they are an eighth of the
    image's."""
    channels: Size = 4
    """The number of channels of the latents."""
    num_classes: SizeOrNone = 0
    """The number of classes. 0 makes the network unconditional."""
    patch: Size = 2
    """The height and width of the patch of latents that makes a token."""
    width: Size = 1152
    """The width of the tokens."""
    depth: Depth = 28
    """The number of transformer blocks."""
    heads: Size = 16
    """The number of attention heads."""
    mlp_ratio: Ratio = 4.0
    """The hidden width of a block's MLP, as a multiple of the block's width."""
    time_features: Size = 256
    """The number of sinusoids that embed the time."""
    learned_variance: bool = True
    """Predict the variance of the reverse step as well (Nichol & Dhariwal 2021), as a place between
    its bounds, in channels behind those of the noise."""

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
