"""DiffiT: diffusion vision transformers (Hatamizadeh et al. 2023, arXiv 2312.02139).

In both networks time enters through attention (TMSA) and nowhere else. `DiffiTUNet`, for images, is
a U whose cells are a convolution followed by a transformer block; `DiffiTTransformer`, for latents,
a stack of the same blocks on patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from overtone.networks.attention import DiffiTBlock, TimeIn
from overtone.networks.cells import DiffiTCell, TransformerCell
from overtone.networks.layers import (
    ClassEmbedding,
    Downsample,
    Features,
    FourierFeatures,
    Output,
    Upsample,
    sinusoids,
    zero,
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
    """a plain ViT at the lowest level, plain transformer blocks at every level, or DiffiT cells"""
    decoder: Literal["aggregation", "multi_resolution", "diffit"] = "diffit"
    """the multi-level aggregation of SETR (arXiv 2012.15840) instead of a U, plain transformer
    blocks, or DiffiT cells"""

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
    """x_t: embedding of the time -> Linear -> SiLU -> Linear, plus class and augmentation.

    `features` is the width of the embedding, `width` that of the token.
    """

    def __init__(
        self,
        features: int,
        width: int,
        num_classes: int,
        *,
        learned_null: bool = False,
        fourier: bool = False,
        augment_channels: int = 0,
    ) -> None:
        super().__init__()
        self.features = features
        self.fourier = FourierFeatures(features) if fourier else None
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = (
            ClassEmbedding(num_classes, width, learned_null=learned_null) if num_classes else None
        )
        self.augment = nn.Linear(augment_channels, width, bias=False) if augment_channels else None

    def forward(
        self,
        time: Float[Tensor, " batch"],
        class_labels: Int[Tensor, " batch"] | None,
        augment_labels: Float[Tensor, "batch conditions"] | None = None,
    ) -> Float[Tensor, "batch width"]:
        embedded = sinusoids(time, self.features) if self.fourier is None else self.fourier(time)
        token = self.mlp(embedded)
        if self.classes is not None:
            if class_labels is None:
                class_labels = torch.full(time.shape, self.classes.num_classes, device=time.device)
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
        self.token = None
        if config.time_in != "none":
            self.token = TimeToken(
                config.token_width,
                config.token_width,
                config.num_classes,
                fourier=config.time_embedding == "fourier",
                augment_channels=config.augment_channels,
            )
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
    ) -> Output:
        if self.token is None:
            return self.unet(x, x.new_zeros(len(x), self.config.token_width))
        return self.unet(x, self.token(time, class_labels, augment_labels))


@dataclass(frozen=True)
class DiffiTTransformerConfig:
    """Settings of `DiffiTTransformer`; the defaults are the published 256 px network's, but for its
    classes."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    kind: Literal["DiffiTTransformer"] = "DiffiTTransformer"
    resolution: int = 32
    """height and width of the latents: an eighth of the image's, with Stable Diffusion's VAE"""
    channels: int = 4
    """channels of the latents"""
    num_classes: int = 0
    """0: unconditional"""
    patch: int = 2
    """height and width of the patch that makes a token"""
    width: int = 1152
    """width of the tokens"""
    depth: int = 28
    """number of blocks"""
    heads: int = 16
    """attention heads"""
    mlp_ratio: float = 4.0
    """hidden width of a block's MLP over its width"""
    time_features: int = 256
    """number of sinusoids that the time is embedded in"""
    learned_variance: bool = True
    """return, behind the noise, where the reverse step's variance lies in its range"""

    def __post_init__(self) -> None:
        for name in ("resolution", "channels", "patch", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.resolution % self.patch:
            raise ValueError(
                f"resolution {self.resolution} does not divide into patches of {self.patch}"
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


class DiffiTTransformer(Network):
    """The latent network: patches, fixed positions, DiffiT blocks over all tokens, a linear head.

    Called as `network(x, time, class_labels)`: x (batch, channels, height, width), time (batch,)
    the number of the diffusion step, labels integers in [0, num_classes], where num_classes or None
    asks for no class. Returns as many channels, or twice as many with `learned_variance`. Height
    and width may be any multiples of the patch: positions and position bias are those of the
    trained resolution, scaled (`positions`, `RelativePositionBias`).
    """

    config_class = DiffiTTransformerConfig
    config: DiffiTTransformerConfig
    position: Tensor

    def __init__(self, config: DiffiTTransformerConfig | None = None) -> None:
        config = config or DiffiTTransformerConfig()
        super().__init__(config)
        width, size = config.width, config.resolution // config.patch
        self.size = size
        self.embed = nn.Conv2d(config.channels, width, config.patch, stride=config.patch)
        self.token = TimeToken(config.time_features, width, config.num_classes, learned_null=True)
        self.blocks = nn.ModuleList(
            DiffiTBlock(width, config.heads, width, size, config.mlp_ratio)
            for _ in range(config.depth)
        )
        self.out_channels = config.channels * (2 if config.learned_variance else 1)
        self.head = zero(nn.Linear(width, config.patch**2 * self.out_channels))
        grid = (size, size)
        self.register_buffer("position", positions(width, grid, size), persistent=False)
        self._other: tuple[tuple[object, ...], Tensor] | None = None  # of the last other grid

    def forward(
        self,
        x: Features,
        time: Float[Tensor, " batch"],
        class_labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "out_batch out_channels height width"]:
        patch = self.config.patch
        if x.shape[2] % patch or x.shape[3] % patch:
            raise ValueError(
                f"{x.shape[2]} x {x.shape[3]} latents do not divide into patches of {patch}"
            )
        rows, columns = grid = x.shape[2] // patch, x.shape[3] // patch
        position = self.position
        if grid != (self.size, self.size):
            key = grid, position.device, position.dtype
            if self._other is None or self._other[0] != key:
                self._other = key, positions(self.config.width, grid, self.size).to(position)
            position = self._other[1]
        token = self.token(time, class_labels)
        tokens = self.embed(x).flatten(2).transpose(1, 2) + position
        tokens = tokens[:, None]  # one window: the whole image
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, token, grid, use_reentrant=False)
            else:
                tokens = block(tokens, token, grid)
        tokens = self.head(F.silu(F.layer_norm(tokens[:, 0], tokens.shape[-1:], eps=1e-6)))
        pixels = tokens.unflatten(1, (rows, columns)).unflatten(3, (patch, patch, -1))
        return pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def repeated_blocks(self) -> list[nn.Module]:
        return list(self.blocks)

    def forget(self) -> None:
        """Let go of the positions kept for another grid."""
        self._other = None


def positions(width: int, grid: tuple[int, int], size: int) -> Float[Tensor, "tokens width"]:
    """2-d positional embedding of a grid of tokens: columns in the first half, rows in the second.

    Each half is the sine, then the cosine, of the coordinate times 10000^(-i / (width / 4)), as in
    DiT (arXiv 2212.09748). Coordinates run over `size` tokens whatever the grid.
    """
    rows, columns = (torch.arange(n, dtype=torch.float64) * (size / n) for n in grid)
    index = torch.arange(width // 4, dtype=torch.float64)
    frequencies = 10000.0 ** (-index / (width // 4))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    halves = []
    for coordinate in (x, y):
        angles = coordinate.flatten()[:, None] * frequencies
        halves += [angles.sin(), angles.cos()]
    return torch.cat(halves, dim=1).float()
