"""Layers that every network shares, each in the precision that is fastest where it runs.

Networks run under autocast (`overtone.precision`), which takes care of convolutions and linear
layers. The rest is decided here, by profile (`docs/log.md`): on a CPU in training, norms are
differentiated two times faster in float32 than in bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

Features = Float[Tensor, "batch channels height width"]
Output = Float[Tensor, "out_batch channels height width"]
"""of a network; as many as went in, but of a trajectory's times perhaps the last alone"""
SLOW_PIXELS = 1024
"""Below this number of pixels torch has another kernel for norms of channels-last features on a
CPU."""


class GroupNorm(nn.Module):
    """Group normalisation followed by SiLU, optionally modulated by [scale, shift] in between.

        y = silu((1 + scale) norm(x) + shift)

    min(32, channels / 4) groups as in EDM, if no `groups` are given, or the next smaller number
    that divides the channels.
    """

    def __init__(
        self, channels: int, eps: float = 1e-5, activation: bool = True, groups: int | None = None
    ) -> None:
        super().__init__()
        most = groups or max(1, min(32, channels // 4))
        self.groups = next(n for n in range(most, 0, -1) if channels % n == 0)
        self.eps = eps
        self.activation = activation
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self, x: Features, scale_shift: Float[Tensor, "batch double"] | None = None
    ) -> Features:
        with without_autocast(x):
            if x.device.type == "cpu":
                return self._fused(precise(x) if torch.is_grad_enabled() else x, scale_shift)
            return self._folded(x, scale_shift)

    def _fused(self, x: Features, scale_shift: Tensor | None) -> Features:
        """By torch's kernel, whose statistics are float32 or better, whatever the dtype of x.

        In bfloat16 it is several times slower channels-last than channels-first where there are
        fewer than `SLOW_PIXELS`, copies included.
        """
        last = torch.channels_last
        small = x.dtype == torch.bfloat16 and x.shape[-2:].numel() < SLOW_PIXELS
        if copied := small and x.is_contiguous(memory_format=last):
            x = x.contiguous()
        x = F.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        if copied:
            x = x.contiguous(memory_format=last)
        if scale_shift is not None:
            scale, shift = scale_shift.to(x.dtype)[:, :, None, None].chunk(2, dim=1)
            x = torch.addcmul(shift, x, scale + 1)
        return F.silu(x) if self.activation else x

    def _folded(self, x: Features, scale_shift: Tensor | None) -> Features:
        """As one multiply-add of each number, y = silu(a x + d): norm, weights and modulation are
        folded into a and d, one for each image and channel, in float32.

        Off the CPU torch's kernel takes features channels-first only, so that every norm between
        channels-last convolutions would copy them twice. This keeps their layout, and a compiler
        makes it two passes.
        """
        groups = precise(x).unflatten(1, (self.groups, -1))
        variance, mean = torch.var_mean(groups, dim=(2, 3, 4), correction=0)
        each = x.shape[1] // self.groups
        factor = torch.rsqrt(variance + self.eps).repeat_interleave(each, 1) * self.weight
        shift = self.bias - mean.repeat_interleave(each, 1) * factor
        if scale_shift is not None:
            scale, more = precise(scale_shift).chunk(2, dim=1)
            factor, shift = factor * (1 + scale), shift * (1 + scale) + more
        y = torch.addcmul(shift[:, :, None, None], x, factor[:, :, None, None])
        return (F.silu(y) if self.activation else y).to(x.dtype)


def layer_norm(x: Float[Tensor, "*any width"]) -> Float[Tensor, "*any width"]:
    """Layer normalisation without parameters, in the dtype of x; eps 1e-6.

    Autocast would run it in float32 and hand float32 on. The statistics are float32 inside anyway.
    """
    with without_autocast(x):
        return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def precise(x: Tensor) -> Tensor:
    """x in float32, or in float64 where it is: what a network in float64 computes stays there."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(x: Tensor) -> torch.autocast | nullcontext[None]:
    """Run the block in the dtype that its inputs have."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


class Downsample(nn.Module):
    """3x3 convolution of stride 2. The embedding is taken for the U's sake, and not used."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(
        self, x: Features, embedding: Tensor
    ) -> Float[Tensor, "batch channels half_height half_width"]:
        return cast(Tensor, self.conv(x))


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(
        self, x: Features, embedding: Tensor
    ) -> Float[Tensor, "batch channels twice_height twice_width"]:
        return cast(Tensor, self.conv(F.interpolate(x, scale_factor=2.0)))


class Resample(nn.Module):
    """Halves or doubles the resolution through a separable filter of even length.

    Taps (1, 1) are the 2x2 mean down and the nearest neighbour up; (1, 3, 3, 1) NCSN++'s filter.
    """

    kernel: Tensor

    def __init__(self, direction: Literal["down", "up"], taps: Sequence[int] = (1, 1)) -> None:
        super().__init__()
        self.direction = direction
        self.box = tuple(taps) == (1, 1)
        self.padding = (len(taps) - 1) // 2
        # Doubling, each input is spread over four outputs: the filter keeps their mean. In Python's
        # own numbers, as arithmetic on the "meta" device costs torch seconds of imports.
        scale = (4 if direction == "up" else 1) / sum(taps) ** 2
        kernel = [[scale * row * column for column in taps] for row in taps]
        self.register_buffer("kernel", torch.tensor(kernel), persistent=False)

    def forward(self, x: Features) -> Float[Tensor, "batch channels new_height new_width"]:
        if self.box and self.direction == "down":
            return F.avg_pool2d(x, 2)
        if self.box:
            return F.interpolate(x, scale_factor=2.0)
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        filtered = F.conv2d if self.direction == "down" else F.conv_transpose2d
        return filtered(x, kernel, stride=2, padding=self.padding, groups=channels)


def sinusoids(
    x: Float[Tensor, " batch"], width: int, *, to_the_end: bool = False
) -> Float[Tensor, "batch width"]:
    """Positional embedding of a number: cos then sin of x times 10000^(-i / half).

    `to_the_end` spreads the frequencies down to 1/10000 itself: i / (half - 1).
    """
    half, x = width // 2, precise(x)
    index = torch.arange(half, dtype=x.dtype, device=x.device)
    angles = x[:, None] * torch.exp(-math.log(10000.0) * index / (half - to_the_end))
    return torch.cat((angles.cos(), angles.sin()), dim=1)


class FourierFeatures(nn.Module):
    """cos then sin of 2 pi f x, with frequencies f ~ N(0, 16^2) drawn once and saved.

    Tancik et al. 2020 (arXiv 2006.10739), as NCSN++ embeds its time.
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.empty(width // 2).normal_(std=16))

    def forward(self, x: Float[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        angles = precise(x)[:, None] * (2 * math.pi * self.frequencies)
        return torch.cat((angles.cos(), angles.sin()), dim=1)


class ClassEmbedding(nn.Module):
    """A learned vector for each class; for the null class num_classes zero, or learned as well.

    Their values start at N(0, 1), as large as what they are added to: where they start small they
    stay small for long, and classes are learned late.
    """

    def __init__(self, num_classes: int, width: int, *, learned_null: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.learned_null = learned_null
        rows = num_classes + learned_null
        self.weight = nn.Parameter(torch.empty(rows, width).normal_())

    def forward(self, class_labels: Int[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        if self.learned_null:
            return F.embedding(class_labels, self.weight)
        known = (class_labels < self.num_classes)[:, None]
        return self.weight[class_labels.clamp(max=self.num_classes - 1)] * known


def zero(module: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """Start a layer at zero, so that the branch it ends adds nothing at first."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module
