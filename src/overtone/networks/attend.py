"""softmax(q k^T / sqrt(d) + bias) v, and the ways in which the bias gets there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from overtone.networks.layers import precise, without_autocast

_CPU_HAS_AMX = torch.cpu._is_amx_tile_supported()


BiasWay = Literal["mask", "folded", "scored"]
FLASH_CHANNELS = 256
"""of a head, more than which no flash kernel takes"""
CPU_VECTOR = 16
"""float32 numbers in a vector of AVX-512"""
CPU_SCORES = 2**21
"""scores that stay in the cache of a CPU until they are used, 8 MiB"""


def attend(
    qkv: Float[Tensor, "batch tokens triple_width"],
    heads: int,
    bias: Float[Tensor, "*some heads tokens tokens"] | None = None,
    memory: Float[Tensor, "batch more double_width"] | None = None,
) -> Float[Tensor, "batch tokens width"]:
    """softmax(q k^T / sqrt(d) + bias) v, with q, k, v packed as (3, head, d) in the last axis.

    `memory` holds the (k, v) of further tokens, which are attended to without bias and ask nothing.
    """
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    if qkv.device.type == "cpu" and (torch.is_grad_enabled() or not _CPU_HAS_AMX):
        # There the backward of fused attention is 5x slower in bfloat16 than in float32, and
        # without tile instructions the forward 1.4x (docs/log.md).
        qkv = precise(qkv)
    q, k, v, bias = unpacked(qkv, heads, bias, memory)
    with without_autocast(q):
        out = _fused(q, k, v) if bias is None else _WAYS[_way](q, k, v, bias)
    return out.transpose(1, 2).reshape(batch, tokens, width)


@contextmanager
def biased_by(way: BiasWay) -> Iterator[None]:
    """How attention adds its bias, for all that is computed in the context; the results are equal
    but for rounding.

        "mask"      as torch's attention takes it: no flash kernel takes one, and its gradient is
                    formed for every image
        "folded"    through q and k, with as many further channels as there are keys,
                    q' = [q, sqrt(d) B],  k' = [k, I]:  q' k'^T / sqrt(d) = q k^T / sqrt(d) + B,
                    so that any kernel serves; as a mask where they are too many for one
        "scored"    by FlexAttention, which reads B where it forms a score; gradients on a GPU alone
    """
    global _way
    before, _way = _way, way
    try:
        yield
    finally:
        _way = before


def _masked(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    bias = bias.to(q.dtype)
    if q.device.type == "cpu" and bias.requires_grad:
        return _multiplied(q, k, v, bias)
    return _fused(q, k, v, bias.expand(q.shape[0], -1, -1, -1))


def _multiplied(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """By products, since no kernel for CPUs has a mask's gradient, and what torch does instead
    looks for rows that are masked as a whole, of which a bias has none. A part of the batch at a
    time, so that its scores stay in the cache."""
    scores = math.prod(q.shape[1:3]) * k.shape[2]
    images = max(1, CPU_SCORES // scores)
    queries, keys, values = (part.split(images) for part in (q, k, v))
    own = bias.dim() == 4 and len(bias) > 1
    biases = bias.split(images) if own else [bias] * len(queries)
    parts = zip(queries, keys, values, biases, strict=True)
    return torch.cat([_products(*part) for part in parts])


def _products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    scores = torch.matmul(q / math.sqrt(q.shape[-1]), k.transpose(-1, -2)) + bias
    return torch.matmul(scores.softmax(-1), v)


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """By torch's kernels. The kernel for CPUs takes 1.5 times as long for heads of 8 channels as
    for heads of 16, so that zeros fill narrow heads up to a vector there."""
    width = q.shape[-1]
    if q.device.type == "cpu" and width <= CPU_VECTOR // 2:
        q, k, v = (F.pad(part, (0, CPU_VECTOR - width)) for part in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1 / math.sqrt(width))
    return out[..., :width]


def _folded(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    width, keys = k.shape[-1], k.shape[-2]
    if width + keys > FLASH_CHANNELS:
        return _masked(q, k, v, bias)
    # Rounded up to whole vectors, which kernels want.
    rest = -(width + keys) % 8
    more_q = (bias * math.sqrt(width)).to(q.dtype).expand(q.shape[0], -1, -1, -1)
    more_k = torch.eye(keys, dtype=k.dtype, device=k.device).expand(*k.shape[:2], -1, -1)
    q, k = (
        torch.cat((q, F.pad(more_q, (0, rest))), -1),
        torch.cat((k, F.pad(more_k, (0, rest))), -1),
    )
    v = F.pad(v, (0, keys + rest))
    return F.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(width))[..., :width]


def _scored(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    bias = bias.expand(q.shape[0], -1, -1, -1)

    def score(value: Tensor, image: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return value + bias[image, head, query, key]

    return cast(Tensor, _flex(q.is_cuda)(q, k, v, score_mod=score))


@cache
def _flex(compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return cast(Any, torch.compile(flex_attention) if compiled else flex_attention)


_WAYS = {"mask": _masked, "folded": _folded, "scored": _scored}
_way: BiasWay = "mask"


def unpacked(
    qkv: Float[Tensor, "batch tokens triple_width"],
    heads: int,
    bias: Float[Tensor, "*some heads tokens tokens"] | None = None,
    memory: Float[Tensor, "batch more double_width"] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """q (batch, heads, tokens, d), k and v, with the memory's behind the tokens', and their bias,
    which is 0 for the memory."""
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.view(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    if memory is not None:
        more = memory.to(qkv.dtype).view(batch, -1, 2, heads, width // heads)
        more_k, more_v = more.permute(2, 0, 3, 1, 4)
        k, v = torch.cat((k, more_k), dim=2), torch.cat((v, more_v), dim=2)
        bias = None if bias is None else F.pad(bias, (0, memory.shape[1]))
    return q, k, v, bias


class Attend(nn.Module):
    """`attend` as a part of a layer: whoever hooks it sees what the layer attends with."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(
        self,
        qkv: Float[Tensor, "batch tokens triple_width"],
        bias: Float[Tensor, "*some heads tokens tokens"] | None = None,
        memory: Float[Tensor, "batch more double_width"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        return attend(qkv, self.heads, bias, memory)
