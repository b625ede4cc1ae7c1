"""What is measured on: the machine, and the most that it reaches."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from overtone import precision
from overtone.bench.turns import in_turns

CHANNELS, SIDE, BATCH = 256, 32, 16
"""of the convolution that the peak is measured with"""
CONVOLUTION = 2 * 9 * CHANNELS**2 * SIDE**2 * BATCH
"""its floating-point operations"""


def cpu_name() -> str:
    """As Linux knows it, which Python does not."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def facts() -> dict[str, Any]:
    """The machine in words and numbers."""
    device = precision.default_device()
    return {
        "machine": torch.cuda.get_device_name() if device.type == "cuda" else cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": precision.resolve("auto", device),
    }


def convolutions(dtype: torch.dtype) -> dict[str, Callable[[], torch.Tensor]]:
    """A large 3x3 convolution of `CONVOLUTION` operations, by the layout of its tensors."""
    device = precision.default_device()
    x = torch.randn(BATCH, CHANNELS, SIDE, SIDE, device=device, dtype=dtype)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, device=device, dtype=dtype)
    lasting = [t.to(memory_format=torch.channels_last) for t in (x, weight)]
    return {
        "contiguous": partial(F.conv2d, x, weight, padding=1),
        "channels last": partial(F.conv2d, *lasting, padding=1),
    }


def peaks(seconds: float = 2.0) -> dict[str, float]:
    """Floating-point operations a second of a large 3x3 convolution, in the layout that is fastest,
    and of a large product of matrices, by the name of their precision."""
    device = precision.default_device()
    kinds = {"fp32": torch.float32}
    if precision.has_fast_bf16(device):
        kinds["bf16"] = torch.bfloat16
    found = {}
    for name, dtype in kinds.items():
        matrix = torch.randn(2048, 2048, device=device, dtype=dtype)
        layouts = convolutions(dtype)
        with torch.no_grad(), precision.exact(device):
            turns = in_turns(layouts | {"product": partial(torch.mm, matrix, matrix)}, seconds)
        found[f"{name} convolution"] = CONVOLUTION / min(map(turns.median, layouts))
        found[f"{name} product"] = 2 * 2048**3 / turns.median("product")
    return found
