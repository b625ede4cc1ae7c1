"""Attention: over all pixels, and DiffiT's time-dependent form in windows.

TMSA, time-dependent multi-head self-attention (DiffiT, arXiv 2312.02139, equations 3-6), with
spatial tokens x_s and one time token x_t:

    q = x_s W_qs + x_t W_qt,   k = x_s W_ks + x_t W_kt,   v = x_s W_vs + x_t W_vt
    softmax(q k^T / sqrt(d) + B) v,   B a learned relative-position bias, one table a head

which is one linear map of the concatenation [x_s, x_t]; written as two, the time's part is
computed once an image instead of once a token. The time's part of k is the same for all tokens,
adds the same to all scores of a query, and cancels in the softmax: W_kt (and any bias of k) is
there because the published network has it, and does nothing. Time acts through q and v.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from overtone.networks.attend import Attend
from overtone.networks.configs.diffit import TimeIn
from overtone.networks.layers import GroupNorm, layer_norm, zero
from overtone.sizes import sides

KEPT_BIAS = 2**22  # numbers: 16 MB a block; at 512 px all blocks' biases would be 2 GB


class SelfAttention(nn.Module):
    """ADM's attention over all pixels: scale (x + proj(attend(norm(x)))).

    The embedding is taken for the sake of those that use it, and not used.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        eps: float = 1e-5,
        skip_scale: float = 1.0,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        self.skip_scale = skip_scale
        self.norm = GroupNorm(channels, eps, activation=False, groups=groups)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.attend = Attend(heads)
        self.proj = zero(nn.Linear(channels, channels))

    def forward(
        self, x: Float[Tensor, "batch channels height width"], embedding: Tensor | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        tokens = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)
        out = self.proj(self.attend(self.qkv(tokens)))
        out = x + out.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return out if self.skip_scale == 1.0 else out * self.skip_scale


class TimeAttention(nn.Module):
    """TMSA in the place of `SelfAttention`: scale (x + TMSA(norm(x), embedding)), in windows."""

    def __init__(
        self,
        channels: int,
        heads: int,
        embedding_width: int,
        window: int | tuple[int, int],
        eps: float = 1e-5,
        skip_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.window = window
        self.skip_scale = skip_scale
        self.norm = GroupNorm(channels, eps, activation=False)
        self.attention = TMSA(channels, heads, embedding_width, window)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        embedding: Float[Tensor, "batch embedding_width"],
    ) -> Float[Tensor, "batch channels height width"]:
        out = self.attention(to_windows(self.norm(x), self.window), embedding)
        return (x + from_windows(out, self.window, x.shape[2])) * self.skip_scale


class RelativePositionBias(nn.Module):
    """B[head, query, key] = table[(dy + h - 1)(2w - 1) + dx + w - 1, head] on h x w tokens,

    (dy, dx) = query - key; `size` is h and w, or one number for both. Another grid of tokens is
    taken to cover the same image: offsets are scaled, and the table is interpolated between them.
    In eval mode B is formed once and kept until the table or the grid changes, unless it is large.
    With a `token_width` the table moves with the time, table + W x_t, and there is one B an image.
    """

    def __init__(self, size: int | tuple[int, int], heads: int, token_width: int = 0) -> None:
        super().__init__()
        self.size = sides(size)
        rows = math.prod(2 * side - 1 for side in self.size)
        self.table = nn.Parameter(torch.empty(rows, heads).normal_(std=0.02))
        self.time = zero(nn.Linear(token_width, rows * heads)) if token_width else None
        self._kept: tuple[tuple[int, int, tuple[int, int]], Tensor] | None = None

    def forward(
        self,
        token: Float[Tensor, "batch token_width"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "*some heads tokens tokens"]:
        grid = grid or self.size
        if self.time is not None:
            table = self.table + self.time(token).unflatten(1, self.table.shape)
            return spread(table, self.size, grid)
        if torch.compiler.is_compiling():
            return spread(self.table, self.size, grid)
        if self.training or torch.is_grad_enabled():
            self._kept = None  # a fused optimizer changes the table and not its version
            return spread(self.table, self.size, grid)
        if self.table.shape[1] * (grid[0] * grid[1]) ** 2 > KEPT_BIAS:
            return spread(self.table, self.size, grid)
        if self.table.is_inference():  # loaded so, and has no version
            return spread(self.table, self.size, grid)
        key = (self.table.data_ptr(), self.table._version, grid)
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, spread(self.table, self.size, grid))
        return self._kept[1]

    def forget(self) -> None:
        """Let go of what is kept, as where the table leaves a device."""
        self._kept = None


def spread(
    table: Float[Tensor, "*some rows heads"],
    size: int | tuple[int, int],
    grid: tuple[int, int],
) -> Float[Tensor, "*some heads tokens tokens"]:
    """The bias of each (query, key) pair on a grid of tokens, from a table for `size` of them.

    B is a Toeplitz matrix of Toeplitz matrices. Made of sliding windows over the table, it needs no
    index, and its gradient, their sum, is 20 times faster than that of a gather.
    """
    size = sides(size)
    offsets = table.transpose(-1, -2).unflatten(-1, (2 * size[0] - 1, 2 * size[1] - 1))
    if grid != size:
        offsets = resampled(offsets, size, grid)
    # Window y of the rows holds the offsets y - (height - 1) ... y, of keys from the last to first.
    windows = offsets.unfold(-2, grid[0], 1).unfold(-2, grid[1], 1)
    return windows.flip(-2, -1).flatten(-2).flatten(-3, -2)


def resampled(
    offsets: Float[Tensor, "*some rows columns"],
    size: int | tuple[int, int],
    grid: tuple[int, int],
) -> Float[Tensor, "*some new_rows new_columns"]:
    """A table over the offsets of `size` tokens, linearly interpolated for those of a grid."""
    lines, dtype = [], torch.promote_types(offsets.dtype, torch.float32)
    for count, side in zip(grid, sides(size), strict=True):
        # Offset d of count tokens a side is d side / count of side tokens, the last ones held.
        offset = torch.arange(1 - count, count, device=offsets.device, dtype=dtype)
        lines.append((offset * (side / count) / max(side - 1, 1)).clamp(-1, 1))
    y, x = torch.meshgrid(*lines, indexing="ij")
    places = torch.stack((x, y), -1)[None]
    flat = offsets.reshape(1, -1, *offsets.shape[-2:])
    out = F.grid_sample(flat, places.to(flat.dtype), align_corners=True)
    return out.view(*offsets.shape[:-2], *out.shape[-2:])


class TMSA(nn.Module):
    """Time-dependent self-attention within windows of `size` tokens a side, or height and width.

    Takes x (batch, windows, tokens, width), the windows of each image, and its time token
    (batch, token_width). The time's projection is the same in all windows of an image. A window of
    another shape says so by its `grid` (rows, columns of tokens). `time_in` other
    than "tmsa" takes the time out of q, k and v (see `DiffiTBlock`).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        token_width: int,
        size: int | tuple[int, int],
        time_in: TimeIn = "tmsa",
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        self.qkv = nn.Linear(width, 3 * width)
        self.qkv_time = nn.Linear(token_width, 3 * width) if time_in == "tmsa" else None
        self.kv_time = nn.Linear(token_width, 2 * width) if time_in == "separate" else None
        self.bias = RelativePositionBias(size, heads, token_width if time_in == "bias" else 0)
        self.attend = Attend(heads)
        self.proj = zero(nn.Linear(width, width))

    def forward(
        self,
        x: Float[Tensor, "batch windows tokens width"],
        token: Float[Tensor, "batch token_width"],
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch windows tokens width"]:
        windows = x.shape[1]
        qkv = self.qkv(x)
        if self.qkv_time is not None:
            qkv = qkv + self.qkv_time(token)[:, None, None]
        bias = self.bias(token, grid)
        if bias.dim() == 4:
            bias = bias.repeat_interleave(windows, 0)
        memory = None
        if self.kv_time is not None:
            memory = self.kv_time(token)[:, None].repeat_interleave(windows, 0)
        out = self.attend(qkv.flatten(0, 1), bias, memory)
        return self.proj(out).view(x.shape)


class DiffiTBlock(nn.Module):
    """x^ = TMSA(LN(x), x_t) + x;  x = MLP(LN(x^)) + x^   (DiffiT, equations 7-8).

    The norms have no parameters, as in the published latent model: the linear layers behind them
    would absorb any. GELU in its tanh form, eps 1e-6. The paper's ablations move the time:

        "tmsa"       into q, k and v
        "separate"   a token of its own that the spatial tokens attend to, beside each other
        "mlp"        MLP(x) = W_2 gelu(W_1 x + W_t x_t)
        "bias"       B = gather(table + W_t x_t)
        "none"       nowhere
    """

    in_windows = True
    """Features are (batch, windows, tokens, channels)."""

    def __init__(
        self,
        width: int,
        heads: int,
        token_width: int,
        size: int | tuple[int, int],
        mlp_ratio: float = 4.0,
        time_in: TimeIn = "tmsa",
    ) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.attention = TMSA(width, heads, token_width, size, time_in)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(approximate="tanh"), zero(nn.Linear(hidden, width))
        )
        self.mlp_time = nn.Linear(token_width, hidden) if time_in == "mlp" else None

    def forward(
        self,
        x: Float[Tensor, "batch windows tokens width"],
        token: Float[Tensor, "batch token_width"],
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch windows tokens width"]:
        x = x + self.attention(layer_norm(x), token, grid)
        h = self.mlp[0](layer_norm(x))
        if self.mlp_time is not None:
            h = h + self.mlp_time(token)[:, None, None]
        return x + self.mlp[2](self.mlp[1](h))


def to_windows(
    x: Float[Tensor, "batch channels height width"], size: int | tuple[int, int]
) -> Float[Tensor, "batch windows tokens channels"]:
    """Windows of tokens that do not overlap, row by row, of `size` a side or height and width."""
    batch, channels, height, width = x.shape
    high, wide = sides(size)
    if height % high or width % wide:
        raise ValueError(f"{height} x {width} features do not divide into {high} x {wide} windows")
    x = (
        x.permute(0, 2, 3, 1)
        .unflatten(2, (width // wide, wide))
        .unflatten(1, (height // high, high))
    )
    return x.transpose(2, 3).reshape(batch, -1, high * wide, channels)


def from_windows(
    x: Float[Tensor, "batch windows tokens channels"], size: int | tuple[int, int], height: int
) -> Float[Tensor, "batch channels height width"]:
    """The inverse of `to_windows`, for features `height` pixels high."""
    batch, windows, _, channels = x.shape
    high, wide = sides(size)
    rows = height // high
    x = x.view(batch, rows, windows // rows, high, wide, channels).transpose(2, 3)
    return x.reshape(batch, height, -1, channels).permute(0, 3, 1, 2)
