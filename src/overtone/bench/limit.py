"""How near the machine's limit Overtone's own networks come, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from overtone.bench.compare import OWN, Asked, Line
from overtone.bench.families import UNETS
from overtone.bench.machine import peaks
from overtone.bench.subjects import awake
from overtone.bench.turns import in_turns
from overtone.networks.network import compile_network, multiply_adds, why_no_compiler
from overtone.precision import autocast, default_device, resolve
from overtone.sizes import sides

BATCH = 16
NETWORKS = ("ddpmpp-cifar10", "diffit-cifar10", "diffit-digits", "relay-glyphs", "meme-digits")
"""of these recipes, beside an ADM and a DiffiT of width 64"""


def share_of_the_peak(asked: Asked) -> Iterator[Line]:
    """Sampling and training as shares of what a large convolution reaches on the same machine; a
    step of training is counted as three evaluations."""
    device = default_device()
    peak = peaks(asked.seconds / 4)[f"{resolve('auto', device)} convolution"]
    reason = why_no_compiler(device.type)
    for name, build in _networks().items():
        network = awake(build()).to(device).to_fast_layout()
        work = _Work(network)
        flops = 2 * multiply_adds(network) * BATCH
        for way in ("eager", "compiled"):
            line: Line = {"case": f"share of the peak, {name}, {way}"}
            if way == "compiled":
                if reason:
                    yield line | {"skipped": f"torch.compile does not work here: {reason}"}
                    continue
                compile_network(network)
            turns = in_turns({"sampling": work.sampling, "training": work.training}, asked.seconds)
            seconds = {mode: turns.median(mode) for mode in turns.seconds}
            yield line | {
                "per_second": {mode: float(f"{BATCH / s:.4g}") for mode, s in seconds.items()},
                "share_of_peak": {
                    "sampling": round(flops / seconds["sampling"] / peak, 3),
                    "training": round(3 * flops / seconds["training"] / peak, 3),
                },
                "peak_GFLOP_per_second": round(peak / 1e9, 1),
            }


def _networks() -> dict[str, Callable[[], Any]]:
    from overtone import find_recipe
    from overtone.networks import DiffiTConfig

    found: dict[str, Callable[[], Any]] = {
        "ADM of width 64": lambda: UNETS[OWN].build(64),
        "DiffiT of width 64": DiffiTConfig(widths=(64,) * 3, num_cells=(2, 2, 2)).build,
    }
    for name in NETWORKS:
        recipe: Any = find_recipe(name)
        found[name] = recipe.network.build
    return found


class _Work:
    """A network with a batch, a step of training, and an evaluation in sampling."""

    def __init__(self, network: Any) -> None:
        config, device = network.config, default_device()
        self.network, self.device = network, device
        shape = BATCH, config.channels, *sides(config.resolution)
        self.x = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
        self.time = torch.zeros(BATCH, device=device)
        classes = torch.zeros(BATCH, dtype=torch.long, device=device)
        self.classes = classes if config.num_classes else None
        self.adam = torch.optim.Adam(network.parameters(), 1e-4, fused=True)

    def sampling(self) -> None:
        self.network.eval()
        with torch.no_grad(), autocast("auto", self.device):
            self.network(self.x, self.time, self.classes)

    def training(self) -> None:
        self.network.train()
        with autocast("auto", self.device):
            out = self.network(self.x, self.time, self.classes)
        out.float().square().mean().backward()
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
