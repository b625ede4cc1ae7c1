"""Training and sampling speed, measured side by side in one run: one JSON line a case.

    python benchmarks/speed.py [--batch 16] [--seconds 8] [--cases adm diffit ...]

A case is a network at one size in training (forward, backward, Adam step) or in sampling (the
library's sampler with two noise levels, three network evaluations an image). Its variants take
turns, round by round, so that a busy machine slows all alike; rates are medians over rounds:

    default    the library's own precision and memory layout
    fp32       the same network in float32, channels-first weights and features: eager PyTorch
    diffusers  `UNet2DModel` of (nearly) equal parameter count under plain bf16 autocast

The last case is the sampler's own arithmetic: the time of a step outside the network, as a share
of the time of a step with it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from overtone import precision
from overtone.denoisers import Denoiser, EDMDenoiser, Estimate
from overtone.networks import ADMConfig, ADMUNet, DiffiTConfig, DiffiTUNet, Network
from overtone.processes import GaussianProcess, SeededNoise
from overtone.samplers import Sampler

ADM = ADMConfig(widths=(128, 128, 128), num_cells=2, dropout=0.0)
NETWORKS: dict[str, Callable[[], Network]] = {
    "diffit-cifar10": lambda: DiffiTUNet(DiffiTConfig.cifar10()),
    "diffit-cifar10-I.1": lambda: DiffiTUNet(DiffiTConfig.cifar10("I.1")),
    "adm-128": lambda: ADMUNet(ADM),
    "adm-64": lambda: ADMUNet(dataclasses.replace(ADM, widths=(64, 64, 64))),
    "diffit-64": lambda: DiffiTUNet(DiffiTConfig(widths=(64, 64, 64), num_cells=(2, 2, 2))),
}


class Variant:
    """A network with the way it is run."""

    def __init__(self, network: nn.Module, dtype: precision.Precision, layout: str) -> None:
        self.device = precision.default_device()
        self.network = network.to(self.device)
        if layout == "channels_last":
            self.network = self.network.to(memory_format=torch.channels_last)
        self.dtype = dtype
        self.denoiser = EDMDenoiser(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), 1e-4, fused=True)

    def training(self, x: Tensor, time: Tensor) -> None:
        with precision.autocast(self.dtype, self.device):
            loss = (self.network(x, time) - x).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def sampling(self, x: Tensor, time: Tensor) -> None:
        with torch.no_grad(), precision.autocast(self.dtype, self.device):
            Sampler(num_steps=2)(self.denoiser, GaussianProcess(), 80 * x, SeededNoise([]))


def awake(module: nn.Module, std: float = 0.05) -> Any:
    """With no layer at zero, as it is after some training."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


class Diffusers(nn.Module):
    """diffusers' U-Net for CIFAR-10, its width chosen to come nearest to `parameters`."""

    config = ADMConfig()  # unconditional: what `EDMDenoiser` asks a network for

    def __init__(self, parameters: int) -> None:
        super().__init__()
        widths = range(32, 513, 8)
        with torch.device("meta"):
            sizes = {w: sum(p.numel() for p in self.unet_of(w).parameters()) for w in widths}
        self.unet = self.unet_of(min(widths, key=lambda width: abs(sizes[width] - parameters)))

    @staticmethod
    def unet_of(width: int) -> nn.Module:
        from diffusers import UNet2DModel

        return UNet2DModel(
            sample_size=32,
            block_out_channels=(width, 2 * width, 2 * width),
            norm_num_groups=8,
            layers_per_block=2,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        )

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return self.unet(x, time).sample


def variants_of(name: str) -> dict[str, Variant]:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    weights = network.state_dict()
    same = NETWORKS[name]()
    same.load_state_dict(weights)
    return {
        "default": Variant(network, "auto", "channels_last"),
        "fp32": Variant(same, "fp32", "contiguous"),
        "diffusers": Variant(Diffusers(network.num_parameters), "auto", "contiguous"),
    }


def rates(
    tasks: Mapping[str, Callable[[], object]], batch: int, seconds: float, device: torch.device
) -> dict[str, float]:
    """Images a second of each task, taking turns until `seconds` are spent on the slowest."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()  # warm up
    while max(sum(t) for t in times.values()) < seconds or min(map(len, times.values())) < 3:
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - began)
    return {name: batch / statistics.median(t) for name, t in times.items()}


def network_cases(name: str, batch: int, seconds: float) -> Iterator[dict]:
    variants = variants_of(name)
    device = variants["default"].device
    x, sigma = torch.randn(batch, 3, 32, 32, device=device), torch.rand(batch, device=device)
    millions = {
        key: round(sum(p.numel() for p in variant.network.parameters()) / 1e6, 2)
        for key, variant in variants.items()
    }
    for mode in ("training", "sampling"):
        for variant in variants.values():
            variant.network.train(mode == "training")
        tasks = {key: partial(getattr(v, mode), x, sigma) for key, v in variants.items()}
        measured = rates(tasks, batch, seconds, device)
        yield {
            "case": f"{name} {mode}",
            "batch": batch,
            "images_per_second": {key: round(rate, 2) for key, rate in measured.items()},
            "over_fp32": round(measured["default"] / measured["fp32"], 2),
            "over_diffusers": round(measured["default"] / measured["diffusers"], 2),
            "parameters_M": millions,
        }


class Free(Denoiser):
    """Costs nothing: what is left of a step is the sampler's own arithmetic."""

    def forward(
        self, x: Tensor, sigma: float | Tensor, class_labels: Tensor | None = None
    ) -> Estimate:
        return Estimate(x)


def sampler_case(batch: int, seconds: float) -> dict:
    device = precision.default_device()
    network = ADMUNet(ADM).eval().to_fast_layout().to(device)
    start = torch.randn(batch, 3, 32, 32, device=device)
    sampler, process = Sampler(num_steps=3), GaussianProcess()

    def run(denoiser: Denoiser) -> None:
        with torch.no_grad(), precision.autocast("auto", device):
            sampler(denoiser, process, start, SeededNoise([]))

    tasks = {"free": lambda: run(Free()), "whole": lambda: run(EDMDenoiser(network))}
    measured = rates(tasks, batch, seconds, device)
    share = measured["whole"] / measured["free"]
    return {"case": "sampler arithmetic, adm-128", "batch": batch, "share": round(share, 5)}


def cpu_name() -> str:
    """As Linux knows it, which Python does not."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> dict:
    """What the figures were measured on."""
    device = precision.default_device()
    return {
        "machine": torch.cuda.get_device_name() if device.type == "cuda" else cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "default_precision": precision.resolve("auto", device),
    }


def run(cases: Mapping[str, Callable[[float], Iterator[dict[str, Any]]]], about: str) -> None:
    """The command line of a script with cases that take seconds and yield lines."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="on the slowest variant")
    parser.add_argument("--cases", nargs="+", choices=cases, default=list(cases))
    options = parser.parse_args()
    print(json.dumps(machine()), flush=True)
    for name in options.cases:
        for line in cases[name](options.seconds):
            print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="on the slowest variant of a case"
    )
    parser.add_argument("--cases", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    options = parser.parse_args()
    print(json.dumps(machine()), flush=True)
    for name in options.cases:
        for result in network_cases(name, options.batch, options.seconds):
            print(json.dumps(result), flush=True)
    print(json.dumps(sampler_case(options.batch, options.seconds)), flush=True)


if __name__ == "__main__":
    main()
