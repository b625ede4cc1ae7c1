"""Where bfloat16 wins, it is the default: which hardware that is, and how a run switches to it.

`autocast` runs convolutions and matrix products in bfloat16. What does not gain from it (the
statistics of norms, softmax, attention's backward pass on a CPU) stays in float32; the layers in
`networks/` decide that operation by operation, from measurements in `docs/log.md`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch

from overtone.errors import OvertoneError

Precision = Literal["auto", "bf16", "fp32"]


def has_fast_bf16(device: torch.device | str) -> bool:
    """Whether the device has bfloat16 matrix units: CUDA 8.0 or later, AMX or AVX512-BF16."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def resolve(precision: Precision, device: torch.device | str) -> Literal["bf16", "fp32"]:
    """'auto' as what it means on this device. Raises `OvertoneError` for an unknown name."""
    if precision not in get_args(Precision):
        raise OvertoneError(f"precision is auto, bf16 or fp32, not {precision!r}.")
    if precision == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    return precision


def autocast(precision: Precision, device: torch.device | str) -> contextlib.AbstractContextManager:
    """The context in which networks run. One around a whole loop casts each weight only once."""
    if resolve(precision, device) == "bf16":
        return _computing(device, halved=True)
    return exact(device)


def exact(device: torch.device | str) -> contextlib.AbstractContextManager:
    """The context in which float32 is computed as float32, whatever the context around it."""
    return _computing(device, halved=False)


@contextlib.contextmanager
def _computing(device: torch.device | str, *, halved: bool) -> Iterator[None]:
    """bfloat16 or not, and on CUDA TF32 or not, which keeps 10 bits of float32's 23: beside
    bfloat16 it loses nothing, and otherwise it is off, though torch lets convolutions use it."""
    kind = torch.device(device).type
    with contextlib.ExitStack() as stack:
        if kind == "cuda":
            switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
            for products in switches:
                stack.callback(setattr, products, "allow_tf32", products.allow_tf32)
                products.allow_tf32 = halved
        if halved or torch.amp.is_autocast_available(kind):
            stack.enter_context(torch.autocast(kind, torch.bfloat16, enabled=halved))
        yield


def widest(device: torch.device | str) -> torch.dtype:
    """float64, or float32 on a device that has none: Apple's."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


def default_device() -> torch.device:
    """The accelerator, where there is one; not Apple's, on which nothing has been measured yet:
    `pipe.to("mps")` uses it."""
    if torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
        if device is not None and device.type != "mps":
            return device
    return torch.device("cpu")
