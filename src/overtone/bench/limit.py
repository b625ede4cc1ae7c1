"""How near the machine's limit Overtone's own networks come, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from overtone.bench.compare import OWN, Asked, Line
from overtone.bench.families import UNETS
from overtone.bench.machine import CONVOLUTION, convolutions
from overtone.bench.subjects import awake
from overtone.bench.turns import Turns, in_turns
from overtone.networks.network import compile_network, multiply_adds, why_no_compiler
from overtone.precision import autocast, default_device, resolve
from overtone.sizes import sides

BATCH = 16
NETWORKS = ("ddpmpp-cifar10", "diffit-cifar10", "diffit-digits", "relay-glyphs", "meme-digits")
"""of these recipes, beside an ADM and a DiffiT of width 64"""


def share_of_the_peak(asked: Asked) -> Iterator[Line]:
    """Sampling and training as shares of what a large convolution reaches in the same rounds; a
    step of training is counted as three evaluations."""
    device = default_device()
    computing = resolve("auto", device)
    layouts = convolutions(torch.bfloat16 if computing == "bf16" else torch.float32)
    reason = why_no_compiler(device.type)
    for name, build in _networks().items():
        network = awake(build()).to(device).to_fast_layout()
        work = _Work(network)
        flops = 2 * multiply_adds(network) * BATCH
        modes = {"sampling": (work.sampling, flops), "training": (work.training, 3 * flops)}
        for way in ("eager", "compiled"):
            line: Line = {"case": f"share of the peak, {name}, {way}"}
            if way == "compiled":
                if reason:
                    yield line | {"skipped": f"torch.compile does not work here: {reason}"}
                    continue
                # A network of another size would be compiled for any size else.
                torch._dynamo.reset()
                compile_network(network)
            tasks = {mode: task for mode, (task, _) in modes.items()} | layouts
            turns = in_turns(tasks, asked.seconds)
            fastest = min(layouts, key=turns.median)
            yield line | {
                "per_second": {m: float(f"{BATCH / turns.median(m):.4g}") for m in modes},
                "share_of_peak": {
                    mode: _share(turns, mode, fastest, operations)
                    for mode, (_, operations) in modes.items()
                },
                "peak_GFLOP_per_second": round(CONVOLUTION / turns.median(fastest) / 1e9, 1),
            }


def _share(turns: Turns, mode: str, fastest: str, operations: int) -> dict[str, Any]:
    part = operations / CONVOLUTION
    ratio, low, high = (round(part * ratio, 3) for ratio in turns.ratio(mode, fastest))
    return {"ratio": ratio, "quartiles": [low, high]}


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
