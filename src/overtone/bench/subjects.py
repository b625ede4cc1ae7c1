"""What is compared: networks of Overtone and of its peers, behind one call, of equal size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Equal = Literal["parameters", "multiply-adds"]


@dataclass(frozen=True)
class Family:
    """Networks of one kind and several widths, x and time in, x out.

    `build` makes one; `call` runs it on x (batch, channels, side, side) and a time in (0, 1) for
    each image.
    """

    build: Callable[[int], nn.Module]
    widths: Sequence[int]
    call: Callable[[nn.Module, Tensor, Tensor], Tensor] = lambda network, x, time: network(x, time)


def size_of(family: Family, width: int, shape: tuple[int, int, int], equal: Equal) -> int:
    """The parameters of a network, or the multiply-adds of an image; nothing is computed."""
    with torch.device("meta"):
        network = family.build(width)
        if equal == "parameters":
            return sum(p.numel() for p in network.parameters())
        x, time = torch.empty(1, *shape), torch.empty(1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        family.call(network, x, time)
    return int(counter.get_total_flops() // 2)


def nearest(family: Family, shape: tuple[int, int, int], equal: Equal, size: int) -> int:
    """The width whose network comes nearest to a size, which grows with it."""
    low, high = 0, len(family.widths) - 1
    measure = cache(lambda place: size_of(family, family.widths[place], shape, equal))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if measure(middle) < size else (low, middle)
    return family.widths[min((low, high), key=lambda place: abs(measure(place) - size))]


def awake(module: nn.Module, std: float = 0.02) -> Any:
    """With no layer at zero, as it is after some training."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std)
    return module


class Subject:
    """A network in the way in which it is run.

    `precision` is Overtone's word: fp32 is eager PyTorch as a script without autocast has it.
    """

    def __init__(
        self,
        family: Family,
        width: int,
        *,
        precision: Any = "auto",
        layout: torch.memory_format = torch.contiguous_format,
        fused: bool = False,
    ) -> None:
        from overtone.precision import default_device

        torch.manual_seed(0)
        self.device, self.precision, self.family = default_device(), precision, family
        self.network = awake(family.build(width)).to(self.device).to(memory_format=layout)
        parameters = self.network.parameters()
        self.optimizer = torch.optim.Adam(parameters, 1e-4, fused=fused or None)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def training(self, x: Tensor, time: Tensor) -> None:
        """Forward, backward, and Adam's step."""
        from overtone.precision import autocast

        self.network.train()
        with autocast(self.precision, self.device):
            loss = (self.family.call(self.network, x, time) - x).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def sampling(self, x: Tensor, time: Tensor) -> None:
        """One evaluation, as a sampler takes it."""
        from overtone.precision import autocast

        self.network.eval()
        with torch.no_grad(), autocast(self.precision, self.device):
            self.family.call(self.network, x, time)
