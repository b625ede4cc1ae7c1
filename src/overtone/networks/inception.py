"""The inception mixer: convolution, max-pooling and attention side by side.

Si et al. 2022 (arXiv 2205.12956). Max-pooling and small convolutions keep high frequencies,
attention is a low-pass filter; how the channels are split between them decides what a block is good
at.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from overtone.networks.attend import Attend
from overtone.networks.layers import Features, zero

EPS = 1e-6


class InceptionMixer(nn.Module):
    """Channels split into d_h high ones, which come first, and d_l low ones:

        y_1 = gelu(DWConv3x3(W_1 z))           z the first half of the high channels
        y_2 = gelu(W_2 maxpool3x3(z) + b_2)    z the second half
        y_3 = up_p(attend(avgpool_p(z)))       z the low channels, p = `pool`
        y   = W (c + DWConv3x3(c)) + b,        c = [y_1, y_2, y_3]

    W_1 and W_2 double their width. `low_heads` heads of width channels / heads make d_l; there is
    no projection behind them. Of any height and width: where p does not divide them the last
    windows of the average are smaller. Raises `ValueError` where a branch would have no channels.
    """

    def __init__(self, channels: int, heads: int, low_heads: int, pool: int = 1) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"width {channels} does not divide into {heads} heads")
        low = low_heads * (channels // heads)
        high = channels - low
        if low < 1 or high < 2 or high % 2:
            raise ValueError(
                f"{low_heads} of {heads} heads leave {low} of {channels} channels to attention and"
                f" {high} to convolution and pooling: attention needs one head at least, those two"
                " an even number of channels, 2 or more"
            )
        if pool < 1:
            raise ValueError(f"attention is on averages of 1 x 1 pixels or more, not {pool}")
        self.split, self.low_heads, self.pool = (high // 2, high // 2, low), low_heads, pool
        self.conv_in = nn.Conv2d(high // 2, high, 1, bias=False)
        self.conv = nn.Conv2d(high, high, 3, padding=1, groups=high, bias=False)
        self.pool_in = nn.Conv2d(high // 2, high, 1)
        self.qkv = nn.Linear(low, 3 * low)
        self.attention = Attend(low_heads)
        both = 2 * high + low
        self.fuse = nn.Conv2d(both, both, 3, padding=1, groups=both, bias=False)
        self.proj = nn.Conv2d(both, channels, 1)

    def forward(self, x: Features) -> Features:
        conv, pool, low = x.split(self.split, dim=1)
        conv = F.gelu(self.conv(self.conv_in(conv)))
        pool = F.gelu(self.pool_in(F.max_pool2d(pool, 3, stride=1, padding=1)))
        mixed = torch.cat((conv, pool, self.attend(low).to(conv.dtype)), dim=1)
        return self.proj(mixed + self.fuse(mixed))

    def attend(self, low: Features) -> Features:
        """y_3, at the resolution of `low`."""
        height, width = low.shape[2:]
        if self.pool > 1:
            low = F.avg_pool2d(low, self.pool, ceil_mode=True)
        tokens = low.permute(0, 2, 3, 1)
        out = self.attention(self.qkv(tokens.flatten(1, 2))).view(tokens.shape)
        low = out.permute(0, 3, 1, 2)
        if self.pool > 1:
            low = F.interpolate(low, scale_factor=float(self.pool))[:, :, :height, :width]
        return low


class InceptionCell(nn.Module):
    """The inception transformer's block, told of the time as ADM's cells are:

        x = x + s_1 mixer(m_1(LN(x)));   x = x + s_2 MLP(m_2(LN(x)))
        m_i(h) = (1 + scale_i) h + shift_i,   [scale_1, shift_1, scale_2, shift_2] = affine(emb)

    LN over the channels of each pixel, eps 1e-6; the MLP is W_2 gelu(W_1 x), `mlp_ratio` times as
    wide. The published block has no embedding, `embedding_width` 0, and may scale its branches by
    s_i, one number a channel, learned from `layer_scale`; here both branches start at zero instead.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        low_heads: int,
        pool: int = 1,
        mlp_ratio: float = 4.0,
        embedding_width: int = 0,
        dropout: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        hidden = int(channels * mlp_ratio)
        self.norm1 = nn.LayerNorm(channels, EPS)
        self.mixer = InceptionMixer(channels, heads, low_heads, pool)
        self.norm2 = nn.LayerNorm(channels, EPS)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(), zero(nn.Linear(hidden, channels))
        )
        zero(self.mixer.proj)
        self.affine = nn.Linear(embedding_width, 4 * channels) if embedding_width else None
        scales = None if layer_scale is None else torch.full((2, channels), layer_scale)
        self.scales = None if scales is None else nn.Parameter(scales)

    def forward(
        self, x: Features, embedding: Float[Tensor, "batch embedding_width"] | None = None
    ) -> Features:
        x = x.permute(0, 2, 3, 1)  # of channels-last features a view
        modulation: list[Tensor | None] = [None] * 4
        if self.affine is not None:
            modulation = list(self.affine(embedding)[:, None, None].chunk(4, dim=-1))
        h = _modulated(self.norm1(x), *modulation[:2])
        h = self.mixer(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + (h if self.scales is None else h * self.scales[0])
        h = self.mlp[1](self.mlp[0](_modulated(self.norm2(x), *modulation[2:])))
        h = self.mlp[2](F.dropout(h, self.dropout, self.training))
        x = x + (h if self.scales is None else h * self.scales[1])
        return x.permute(0, 3, 1, 2)


def _modulated(h: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    if scale is None or shift is None:
        return h
    return torch.addcmul(shift.to(h.dtype), h, scale.to(h.dtype) + 1)
