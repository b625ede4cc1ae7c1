"""Convolution over time in a Fourier basis, DSNO's layer (Zheng et al. 2022, arXiv 2211.13449).

Features of a trajectory are (batch, times, channels, height, width). The layer acts on time and
channels alone, every pixel for itself:

    (T u)(t) = u(t) + leaky_relu((K u)(t)),    K u = F^-1 (R F u),    R complex, J modes kept

With all but J modes cut F is a handful of sums, which needs neither an FFT nor complex numbers: in
the real basis 1, cos, sin, R is one real product for the constant and a 2 x 2 block of them for
each wave.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.01


class TemporalConv(nn.Module):
    """u + leaky_relu(K u), K a circular convolution over time that keeps `modes` frequencies, the
    constant one of them.

    `weight` holds P_0, then P_k and Q_k of each wave k, R_k = P_k + i Q_k from channels in to
    channels out; with `groups` each group of channels is mapped by itself. For M times, with

        a_k, b_k = sum_m u_m cos(2 pi k m / M), sum_m u_m sin(2 pi k m / M)

    (K u)_m is the sum over k of

        w_k / M [cos(2 pi k m / M) (a_k P_k + b_k Q_k) + sin(2 pi k m / M) (b_k P_k - a_k Q_k)]

    w = 1 for the constant and for the highest wave of an even M, which has no sine, else 2. A
    band-limited signal gives the same function whatever it is sampled at, for M > 2 (J - 1). M
    times have M // 2 + 1 modes: fewer times use the first of the layer's, with a warning.

    Weights start at zero, where the layer changes nothing. Raises `ValueError` for no modes, and
    for groups that do not divide the channels.
    """

    def __init__(self, channels: int, modes: int, groups: int = 1) -> None:
        super().__init__()
        if modes < 1:
            raise ValueError(f"a temporal convolution keeps at least one mode, not {modes}")
        if channels % groups:
            raise ValueError(f"{channels} channels do not divide into {groups} groups")
        self.modes = modes
        width = channels // groups
        self.weight = nn.Parameter(torch.zeros(2 * modes - 1, groups, width, width))
        self._kept: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def forward(
        self, u: Float[Tensor, "batch times channels height width"], last: bool = False
    ) -> Float[Tensor, "batch some_times channels height width"]:
        """All times, or the last one alone."""
        out = self.along(u.movedim(2, -1).flatten(2, 3), last)
        return out.unflatten(2, u.shape[3:]).movedim(-1, 2)

    def along(
        self, u: Float[Tensor, "batch times places channels"], last: bool = False
    ) -> Float[Tensor, "batch some_times places channels"]:
        """`forward` of features whose channels come last, at any places."""
        batch, times, places, channels = u.shape
        modes = min(self.modes, times // 2 + 1)
        if modes < self.modes and not torch.compiler.is_compiling():
            warnings.warn(
                f"{times} times have {modes} modes: a temporal convolution leaves the others of its"
                f" {self.modes} out",
                stacklevel=2,
            )
        forth, back = self._bases(times, modes, u)
        u = u.contiguous()
        waves = torch.matmul(forth, u.flatten(2)).unflatten(2, (places, channels))
        weight = _whole(self.weight[: 2 * modes - 1]).to(u.dtype)

        def every(matrix: Tensor) -> Tensor:
            return matrix.expand(batch, -1, -1)

        out = [torch.bmm(waves[:, 0], every(weight[0]))]
        for k in range(1, 2 * modes - 1, 2):
            # Three products for the four: a P + b Q = (a + b) P + b (Q - P), and so on.
            a, b, p, q = waves[:, k], waves[:, k + 1], weight[k], weight[k + 1]
            both = torch.bmm(a + b, every(p))
            out.append(torch.baddbmm(both, b, every(q - p)))
            out.append(torch.baddbmm(both, a, every(p + q), alpha=-1))
        back, u = (back[-1:], u[:, -1:]) if last else (back, u)
        kernel = torch.matmul(back, torch.stack(out, dim=1).flatten(2))
        kernel = F.leaky_relu(kernel.unflatten(2, (places, channels)), NEGATIVE_SLOPE, inplace=True)
        if torch.is_grad_enabled() or kernel.dtype != u.dtype:
            return u + kernel
        return kernel.add_(u)  # new memory is half of the time of so small a sum

    def _bases(self, times: int, modes: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """`bases` where `like` is, made once."""
        key = times, modes, like.device, like.dtype
        if key not in self._kept:
            with torch.inference_mode(False):  # else training could not use them later
                forth, back = bases(times, modes)
                self._kept[key] = forth.to(like), back.to(like)
        return self._kept[key]


def _whole(weight: Float[Tensor, "waves groups width width"]) -> Tensor:
    """Matrices over all channels from those of the groups: one product is faster than many."""
    count, groups, width, _ = weight.shape
    if groups == 1:
        return weight[:, 0]
    whole = weight.new_zeros(count, groups, width, groups, width)
    index = torch.arange(groups, device=weight.device)
    whole[:, index, :, index] = weight.transpose(0, 1)
    return whole.reshape(count, groups * width, groups * width)


def bases(
    times: int, modes: int
) -> tuple[Float[Tensor, "waves times"], Float[Tensor, "times waves"]]:
    """Sums over time that give the waves' amplitudes, and their inverse, weights included: 1, then
    cos and sin of each wave; float64."""
    angle = 2 * math.pi / times * torch.arange(times, dtype=torch.float64)
    rows, weights = [torch.ones(times, dtype=torch.float64)], [1.0]
    for k in range(1, modes):
        highest = 2 * k == times
        rows += [torch.cos(k * angle), torch.zeros_like(angle) if highest else torch.sin(k * angle)]
        weights += [1.0, 0.0] if highest else [2.0, 2.0]
    forth = torch.stack(rows)
    back = (forth * torch.tensor(weights, dtype=torch.float64)[:, None] / times).T
    return forth, back.contiguous()


class TimeAxis:
    """How many times the features in a network are of, which only the network's caller knows.

    The batch of every cell is (batch times), times inner. The layer behind which nothing looks
    across times (`is_last`) keeps the last time alone if that is all that is wanted. What was said
    stands until the next call: blocks that are computed again in the backward pass ask as well.
    """

    def __init__(self) -> None:
        self.count = 1
        self.last_only = False


class TemporalCell(nn.Module):
    """Any cell of a network, and a temporal convolution behind it."""

    def __init__(
        self, cell: nn.Module, channels: int, modes: int, axis: TimeAxis, groups: int = 1
    ) -> None:
        super().__init__()
        self.cell = cell
        self.temporal = TemporalConv(channels, modes, groups)
        self.axis = axis
        self.is_last = False

    def forward(self, x: Tensor, *args: Any, **more: Any) -> Tensor:
        x = self.cell(x, *args, **more)
        return self.across(x)

    def across(self, x: Tensor) -> Tensor:
        """The convolution over features (batch times, channels, height, width)."""
        last = self.axis.last_only and self.is_last
        return self.temporal(x.unflatten(0, (-1, self.axis.count)), last).flatten(0, 1)


class TemporalTokens(TemporalCell):
    """The same of features (batch times, windows, tokens, channels), a transformer's."""

    def across(self, x: Tensor) -> Tensor:
        last = self.axis.last_only and self.is_last
        u = x.unflatten(0, (-1, self.axis.count)).flatten(2, 3)
        return self.temporal.along(u, last).unflatten(2, x.shape[1:3]).flatten(0, 1)
