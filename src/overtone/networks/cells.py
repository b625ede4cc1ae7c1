"""The cells that U-shaped networks are made of. Each is called as `cell(x, embedding)`."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from overtone.networks.attention import DiffiTBlock, SelfAttention, from_windows, to_windows
from overtone.networks.layers import Features, GroupNorm, zero

Embedding = Float[Tensor, "batch embedding_width"]


class ResidualCell(nn.Module):
    """ADM's residual block, with self-attention behind it where `heads` is not 0.

        h = conv0(resample(silu(norm(x))))
        h = conv1(dropout(silu((1 + scale) norm(h) + shift))),   [scale, shift] = affine(embedding)
        y = h + skip(resample(x));   y = y + attention(y)

    Resampling is a 2x2 box filter, before the convolution, on both branches.
    Dhariwal & Nichol 2021 (arXiv 2105.05233), in the form of EDM's networks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_width: int,
        heads: int = 0,
        dropout: float = 0.0,
        resample: Literal["down", "up"] | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.dropout = dropout
        self.norm0 = GroupNorm(in_channels, eps)
        self.conv0 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.affine = nn.Linear(embedding_width, 2 * out_channels)
        self.norm1 = GroupNorm(out_channels, eps)
        self.conv1 = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.attention = SelfAttention(out_channels, heads, eps) if heads else None

    def forward(
        self, x: Features, embedding: Embedding
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        h = self.conv0(self._resampled(self.norm0(x)))
        h = self.norm1(h, self.affine(embedding))
        h = self.conv1(F.dropout(h, self.dropout, self.training))
        x = self.skip(self._resampled(x)) + h
        return x if self.attention is None else self.attention(x)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2.0)
        return x


class DiffiTCell(nn.Module):
    """DiffiT's residual cell (arXiv 2312.02139, equations 9-10), the embedding its time token.

        x^ = conv3x3(silu(norm(x)));   y = DiffiTBlock(x^, x_t) + skip(x)

    The block attends within `window` x `window` pixels; skip is a 1x1 convolution where the width
    changes, the identity elsewhere.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        token_width: int,
        heads: int,
        window: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.window = window
        self.dropout = dropout
        self.norm = GroupNorm(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.block = DiffiTBlock(out_channels, heads, token_width, window, mlp_ratio)
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(
        self, x: Features, embedding: Embedding
    ) -> Float[Tensor, "batch out_channels height width"]:
        h = self.conv(F.dropout(self.norm(x), self.dropout, self.training))
        h = self.block(to_windows(h, self.window), embedding)
        return self.skip(x) + from_windows(h, self.window, x.shape[2])
