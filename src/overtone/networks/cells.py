"""The cells that U-shaped networks are made of. Each is called as `cell(x, embedding)`."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from overtone.networks.attention import DiffiTBlock, from_windows, to_windows
from overtone.networks.configs.diffit import TimeIn
from overtone.networks.layers import Features, GroupNorm, Resample, zero

Embedding = Float[Tensor, "batch embedding_width"]


class ResidualCell(nn.Module):
    """ADM's residual block, with `attention` behind it where there is one.

        h = conv0(resample(silu(norm(x))))
        h = conv1(dropout(silu((1 + scale) norm(h) + shift))),   [scale, shift] = affine(embedding)
        y = s (h + skip(resample(x)));   y = attention(y, embedding)

    Resampling stands before the convolution, on both branches. Dhariwal & Nichol 2021
    (arXiv 2105.05233), in the form of EDM's networks. DDPM++ and NCSN++ (Song et al. 2021,
    arXiv 2011.13456) differ in three things: with `modulation` "add" the second norm is of
    h + affine(embedding) and not modulated, `skip_scale` s is sqrt(1/2), and `skip_conv` puts a
    1x1 convolution on the skip of resampling cells, as elsewhere where the width changes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_width: int,
        attention: nn.Module | None = None,
        dropout: float = 0.0,
        resample: Resample | None = None,
        eps: float = 1e-5,
        *,
        modulation: Literal["scale_shift", "add"] = "scale_shift",
        skip_scale: float = 1.0,
        skip_conv: bool = False,
    ) -> None:
        super().__init__()
        self.modulation = modulation
        self.skip_scale = skip_scale
        self.dropout = dropout
        self.resample = resample or nn.Identity()
        self.norm0 = GroupNorm(in_channels, eps)
        self.conv0 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        both = 2 if modulation == "scale_shift" else 1
        self.affine = nn.Linear(embedding_width, both * out_channels)
        self.norm1 = GroupNorm(out_channels, eps)
        self.conv1 = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels and not skip_conv
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.attention = attention

    def forward(
        self, x: Features, embedding: Embedding
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        h = self.conv0(self.resample(self.norm0(x)))
        if self.modulation == "add":
            h = self.norm1(h + self.affine(embedding)[:, :, None, None])
        else:
            h = self.norm1(h, self.affine(embedding))
        h = self.conv1(F.dropout(h, self.dropout, self.training))
        x = self.skip(self.resample(x)) + h
        x = x if self.skip_scale == 1.0 else x * self.skip_scale
        return x if self.attention is None else self.attention(x, embedding)


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
        window: int | tuple[int, int],
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        time_in: TimeIn = "tmsa",
    ) -> None:
        super().__init__()
        self.window = window
        self.dropout = dropout
        self.norm = GroupNorm(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.block = DiffiTBlock(out_channels, heads, token_width, window, mlp_ratio, time_in)
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(
        self, x: Features, embedding: Embedding
    ) -> Float[Tensor, "batch out_channels height width"]:
        h = self.conv(F.dropout(self.norm(x), self.dropout, self.training))
        h = self.block(to_windows(h, self.window), embedding)
        return self.skip(x) + from_windows(h, self.window, x.shape[2])


class TransformerCell(nn.Module):
    """A plain transformer block on pixels, where DiffiT's ablations have no DiffiT cell:

        y = Block(skip(x) + W x_t)

    with self-attention in windows and the time added to its tokens, as in DDPM; no convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        token_width: int,
        heads: int,
        window: int | tuple[int, int],
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.window = window
        self.dropout = dropout
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.time = nn.Linear(token_width, out_channels)
        self.block = DiffiTBlock(out_channels, heads, token_width, window, mlp_ratio, "none")

    def forward(
        self, x: Features, embedding: Embedding
    ) -> Float[Tensor, "batch out_channels height width"]:
        h = self.skip(x) + self.time(embedding)[:, :, None, None]
        h = F.dropout(h, self.dropout, self.training)
        return from_windows(
            self.block(to_windows(h, self.window), embedding), self.window, x.shape[2]
        )
