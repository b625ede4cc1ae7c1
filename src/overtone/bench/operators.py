"""Each operator of the four systems alone, beside the papers' formulas written out.

What is compared agrees: the largest difference of the two is a result, and too large a one an
error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from overtone.bench.compare import OWN, Asked, Line, against
from overtone.bench.subjects import awake
from overtone.bench.turns import in_turns
from overtone.precision import autocast, default_device, exact

WRITTEN = "written out"
AGREES = 1e-3
"""the largest difference of two right computations in float32, of the largest value"""
RELAY_SHAPE = (4, 3, 256, 256)
SIGMA, NEXT, ETA = 0.5, 0.4, 0.2


def operators(asked: Asked) -> Iterator[Line]:
    """All of them, one after another."""
    for case in (tmsa, cell, temporal_convolution, relay_step):
        yield from case(asked)


def tmsa(asked: Asked) -> Iterator[Line]:
    """Time-dependent attention in windows of 8 x 8 tokens, and of all 16 x 16 tokens."""
    from overtone.bench.reference.tmsa import WrittenTMSA
    from overtone.networks.attention import TMSA

    for windows, side, width, heads in ((16, 8, 128, 4), (1, 16, 384, 6)):
        own = awake(TMSA(width, heads, 256, side))
        shape = (16, windows, side * side, width)
        inputs = torch.randn(shape), torch.randn(16, 256)
        yield from _layer(
            f"TMSA, {windows} x {side * side} tokens of width {width}", own, WrittenTMSA(own),
            inputs, asked,
        )  # fmt: skip


def cell(asked: Asked) -> Iterator[Line]:
    """An inception cell of width 256 at 16 x 16 pixels, half of its heads low."""
    from overtone.bench.reference.inception import WrittenCell
    from overtone.networks.inception import InceptionCell

    own = awake(InceptionCell(256, 8, 4, embedding_width=256))
    inputs = torch.randn(16, 256, 16, 16), torch.randn(16, 256)
    yield from _layer("inception cell, width 256, 16 px", own, WrittenCell(own), inputs, asked)


def temporal_convolution(asked: Asked) -> Iterator[Line]:
    """DSNO's convolution over four times, two modes."""
    from overtone.bench.reference.spectral import complex_weight, written
    from overtone.networks.spectral import TemporalConv

    for shape in ((4, 4, 128, 32, 32), (8, 4, 256, 16, 16)):
        own = awake(TemporalConv(shape[2], 2))
        other = _Called(partial(_with_weight, written, complex_weight, own))
        last = torch.randn(shape).movedim(2, -1).contiguous().movedim(-1, 2)
        yield from _layer(f"temporal convolution {shape}", own, other, (last,), asked)


def _with_weight(written: Any, complex_weight: Any, own: nn.Module, u: Tensor) -> Tensor:
    return written(u.float(), complex_weight(own))


class _Called(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def _layer(
    what: str, own: Any, other: nn.Module, inputs: tuple[Tensor, ...], asked: Asked
) -> Iterator[Line]:
    """A layer forward and, with its gradients, in training."""
    device = default_device()
    own, other = own.to(device).eval(), other.to(device).eval()
    inputs = tuple(x.to(device) for x in inputs)
    lasting = tuple(_channels_last(x) for x in inputs)

    with torch.no_grad(), exact(device):
        away = _difference(own(*lasting), other(*inputs))

    def forward(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        with torch.no_grad(), autocast("auto", device):
            layer(*given)

    def training(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        leaves = [x.detach().requires_grad_() for x in given]
        with autocast("auto", device):
            out = layer(*leaves)
        out.float().square().sum().backward()
        own.zero_grad(set_to_none=True)

    for mode, run in (("forward", forward), ("training", training)):
        turns = in_turns(
            {OWN: partial(run, own, lasting), WRITTEN: partial(run, other, inputs)}, asked.seconds
        )
        line = against(turns, {}, len(inputs[0]))
        yield {"case": f"{what}, {mode}"} | line | {"difference": away}


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _difference(own: Tensor, other: Tensor) -> float:
    """The largest, relative to the largest value. Raises `ValueError` where it is too large."""
    own, other = own.double().cpu(), other.double().cpu()
    away = float((own - other).abs().max() / other.abs().max())
    if not away < AGREES:
        raise ValueError(
            f"the operator differs from its formula by {away:.2g} of the largest value"
        )
    return float(f"{away:.1e}")


def relay_step(asked: Asked) -> Iterator[Line]:
    """A step of the relay's sampler, given the estimate."""
    from overtone.bench.reference.relay import draws, written
    from overtone.processes import RelayProcess, SeededNoise
    from overtone.samplers import Sampler

    device, process = default_device(), RelayProcess()
    x, x_0 = torch.randn(RELAY_SHAPE), torch.randn(RELAY_SHAPE)
    here, here_0 = x.to(device), x_0.to(device)
    sampler, source = Sampler(eta=ETA), SeededNoise(range(RELAY_SHAPE[0]))

    def own() -> Tensor:
        return sampler.advance(process, here, here_0, SIGMA, NEXT, source)

    def other(dtype: torch.dtype) -> Callable[[], Tensor]:
        return partial(written, process, x, x_0, draws(RELAY_SHAPE, dtype), SIGMA, NEXT, ETA)

    same = _difference(own(), other(torch.float32)())
    turns = in_turns(
        {
            OWN: own,
            f"{WRITTEN}, noise in float64": other(torch.float64),
            f"{WRITTEN}, noise in float32": other(torch.float32),
        },
        asked.seconds,
    )
    what = "relay step, " + " x ".join(map(str, RELAY_SHAPE))
    line = against(turns, {}, RELAY_SHAPE[0])
    yield {"case": what} | line | {"difference": same}
