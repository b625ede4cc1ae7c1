"""DiffiT: diffusion vision transformers (Hatamizadeh et al. 2023, arXiv 2312.02139).

In both networks time enters through attention (TMSA) and nowhere else. `DiffiTUNet`, for images, is
a U whose cells are a convolution followed by a transformer block; `DiffiTTransformer`, for latents,
a stack of the same blocks on patches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from overtone.networks.attention import DiffiTBlock
from overtone.networks.cells import DiffiTCell, TransformerCell
from overtone.networks.configs.diffit import DiffiTConfig, DiffiTTransformerConfig
from overtone.networks.layers import (
    ClassEmbedding,
    Downsample,
    Features,
    FourierFeatures,
    Output,
    Upsample,
    layer_norm,
    sinusoids,
    zero,
)
from overtone.networks.network import Network, Spot
from overtone.networks.unet import AggregationNet, Cells, Place, UNet
from overtone.sizes import divided, divides, resolution_of, shown, sides


class _DiffiTCells(Cells):
    def __init__(self, config: DiffiTConfig) -> None:
        self.config = config

    def cell(self, in_channels: int, out_channels: int, place: Place) -> nn.Module:
        config = self.config
        if out_channels % config.head_channels:
            raise ValueError(f"width {out_channels} does not divide into heads of"
                             f" {config.head_channels} channels")  # fmt: skip
        if not divides(place.size, config.window) and config.encoder != "vit":
            size = shown(resolution_of(*place.size))
            raise ValueError(
                f"level {place.level} is {size} pixels wide, which does not divide"
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
        window = resolution_of(*place.size) if half == "vit" else config.window
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
        token = self.mlp(embedded.to(next(self.mlp.parameters()).dtype))
        if self.classes is not None:
            if class_labels is None:
                class_labels = torch.full(time.shape, self.classes.num_classes, device=time.device)
            token = token + self.classes(class_labels)
        if self.augment is not None and augment_labels is not None:
            token = token + self.augment(augment_labels)
        return token


class DiffiTUNet(Network):
    """DiffiT's U-Net for images (Hatamizadeh et al. 2023, arXiv 2312.02139), and the networks that
    the paper's ablations compare it with.

    Called as `network(x, time, class_labels, augment_labels)`: x (batch, channels, height, width),
    time (batch,), labels integers in [0, num_classes], where num_classes or None asks for no class.
    Height and width may differ from the resolution; each level must divide into windows.

    Examples:
        >>> config = DiffiTConfig(resolution=16, widths=(32, 64), num_cells=(1, 1), token_width=64)
        >>> network = DiffiTUNet(config)
        >>> network(torch.randn(2, 3, 16, 16), torch.tensor([0.1, 0.2])).shape
        torch.Size([2, 3, 16, 16])
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

    def temporal_spots(self) -> Iterator[Spot]:
        return self.unet.spots()

    @property
    def ends_alone(self) -> bool:
        return self.config.decoder != "aggregation"  # which looks at all of the encoder again


class DiffiTTransformer(Network):
    """DiffiT's transformer for latents (Hatamizadeh et al. 2023, arXiv 2312.02139): patches, fixed
    positions, DiffiT blocks over all tokens, a linear head.

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
        width, size = config.width, sides(divided(config.resolution, config.patch))
        self.size = size
        self.embed = nn.Conv2d(config.channels, width, config.patch, stride=config.patch)
        self.token = TimeToken(config.time_features, width, config.num_classes, learned_null=True)
        self.blocks = nn.ModuleList(
            DiffiTBlock(width, config.heads, width, size, config.mlp_ratio)
            for _ in range(config.depth)
        )
        self.out_channels = config.channels * (2 if config.learned_variance else 1)
        self.head = zero(nn.Linear(width, config.patch**2 * self.out_channels))
        position = torch.empty(math.prod(size), width)
        if not position.is_meta:  # there arithmetic costs torch seconds of imports
            position = positions(width, size, size)
        self.register_buffer("position", position, persistent=False)
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
        if grid != self.size:
            key = grid, position.device, position.dtype
            if self._other is None or self._other[0] != key:
                self._other = key, positions(self.config.width, grid, self.size).to(position)
            position = self._other[1]
        token = self.token(time, class_labels)
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        # Positions in float32 would widen the residual stream, which is as wide as its products.
        tokens = tokens + position.to(tokens.dtype)
        tokens = tokens[:, None]  # one window: the whole image
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, token, grid, use_reentrant=False)
            else:
                tokens = block(tokens, token, grid)
        tokens = self.head(F.silu(layer_norm(tokens[:, 0])))
        pixels = tokens.unflatten(1, (rows, columns)).unflatten(3, (patch, patch, -1))
        return pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def repeated_blocks(self) -> list[nn.Module]:
        return list(self.blocks)

    def output_tensors(self) -> Mapping[str, int]:
        groups = self.config.patch**2
        return {"head.weight": groups, "head.bias": groups}

    def temporal_spots(self) -> Iterator[Spot]:
        for number in range(len(self.blocks)):
            yield Spot(self.blocks, number, self.config.width, tokens=True)

    def forget(self) -> None:
        """Let go of the positions kept for another grid."""
        self._other = None


def positions(
    width: int, grid: tuple[int, int], size: int | tuple[int, int]
) -> Float[Tensor, "tokens width"]:
    """2-d positional embedding of a grid of tokens: columns in the first half, rows in the second.

    Each half is the sine, then the cosine, of the coordinate times 10000^(-i / (width / 4)), as in
    DiT (arXiv 2212.09748). Coordinates run over
    the trained `size`, tokens high and wide, whatever the grid.
    """
    axes = zip(grid, sides(size), strict=True)
    rows, columns = (torch.arange(n, dtype=torch.float64) * (side / n) for n, side in axes)
    index = torch.arange(width // 4, dtype=torch.float64)
    frequencies = 10000.0 ** (-index / (width // 4))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    halves = []
    for coordinate in (x, y):
        angles = coordinate.flatten()[:, None] * frequencies
        halves += [angles.sin(), angles.cos()]
    return torch.cat(halves, dim=1).float()
