"""What frequencies a model's images and features hold, as it denoises.

MEME's figures 2, 3 and 6 (Lee et al. 2023, arXiv 2306.04990), after Park & Kim 2022 (arXiv
2202.06709): convolution raises the high frequencies of features, attention lowers them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from overtone.denoisers.denoiser import Denoiser
from overtone.precision import widest

BINS = 16
"""curves of maps of any size are brought to so many frequencies above 0, up to an axis's highest"""
_FLOOR = 1e-12


@dataclass
class Spectra:
    """Curves over `BINS` + 1 frequencies, 0 to 1 (the highest of an axis), by noise level."""

    sigmas: list[float]
    images: list[list[float]] = field(default_factory=list)
    """The mean log amplitude of x_t at each frequency, x_t scaled to unit variance."""
    layers: list[str] = field(default_factory=list)
    """The layers that were watched, from the first to the last that was called, over all noise
    levels."""
    features: list[dict[str, list[float]]] = field(default_factory=list)
    """The relative log amplitude of the output of each layer that was called at a noise level."""
    experts: list[int] = field(default_factory=list)
    """The number of the expert that was asked at each noise level, counted from 1, where the model
    has experts."""


def log_amplitude(maps: Float[Tensor, "batch channels height width"]) -> Float[Tensor, " bins"]:
    """log |F| at each radial frequency, averaged over its ring, channels and images.

    A ring holds the coefficients (k, l) of the 2-d FFT with max-normalised radius
    sqrt((2 k / H)^2 + (2 l / W)^2) nearest to it; the first is the mean alone. Rings that a small
    map lacks are interpolated.
    """
    height, width = maps.shape[2:]
    spectrum = torch.fft.rfft2(maps.float(), norm="ortho").abs().clamp(min=_FLOOR).log()
    # Columns but the first, and of an even width the last, stand for two of the full transform.
    weight = torch.full((width // 2 + 1,), 2.0)
    weight[0] = 1
    if width % 2 == 0:
        weight[-1] = 1
    k = torch.fft.fftfreq(height).abs() * 2
    radius = (k[:, None] ** 2 + (torch.fft.rfftfreq(width) * 2) ** 2).sqrt()
    rings = max(1, min(height, width) // 2)
    ring = (radius * rings).round().clamp(min=1).long()
    ring[0, 0] = 0
    kept = ring <= rings
    weights = (weight.expand_as(radius) * kept).flatten()
    mean = spectrum.mean((0, 1), dtype=widest(spectrum.device)).cpu().double()
    values = mean.flatten() * weights
    ring = ring.clamp(max=rings).flatten()
    total = torch.zeros(rings + 1, dtype=torch.float64).index_add_(0, ring, values)
    count = torch.zeros(rings + 1, dtype=torch.float64).index_add_(0, ring, weights.double())
    return _interpolated(total / count)


def relative_log_amplitude(
    maps: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, " bins"]:
    """`log_amplitude` minus that of the lowest frequency, the mean."""
    curve = log_amplitude(maps)
    return curve - curve[0]


def _interpolated(curve: Tensor) -> Tensor:
    where = torch.linspace(0, len(curve) - 1, BINS + 1, dtype=torch.float64)
    low = where.floor().long().clamp(max=max(len(curve) - 2, 0))
    high = (low + 1).clamp(max=len(curve) - 1)
    return torch.lerp(curve[low], curve[high], where - low)


@contextmanager
def watched(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collects, while the block lasts, `relative_log_amplitude` of what the model's blocks return.

    Blocks are the entries of its module lists that return feature maps: cells of U-Nets, blocks of
    transformers, diffusers' resnets and attentions. The hooks are gone when the block ends.
    """
    curves: dict[str, Tensor] = {}
    handles = []

    def hook(name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            maps = _map_of(module, output)
            if maps is not None:
                curves[name] = relative_log_amplitude(maps.detach())

        return keep

    try:
        for name, block in blocks_of(model):
            handles.append(block.register_forward_hook(hook(name)))
        yield curves
    finally:
        for handle in handles:
            handle.remove()


def blocks_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The entries of module lists that hold no further such lists, with their names.

    Lists of torch's own layers, as within diffusers' attentions, do not count.
    """
    found = []
    for name, module in model.named_modules():
        for number, block in module.named_children() if _is_list(module) else ():
            if not any(_is_list(inner) for inner in block.modules()):
                found.append((f"{name}.{number}", block))
    return found


def spectra_of(
    denoiser: Denoiser,
    path: Sequence[tuple[float, Tensor]],
    class_labels: Tensor | None = None,
) -> Spectra:
    """The curves at some steps of a sampling path, (sigma, x_t); the model is asked at each."""
    found, seen = Spectra([]), dict[str, None]()
    for sigma, x in path:
        found.sigmas.append(sigma)
        found.images.append(log_amplitude(x / x.std()).tolist())
        with torch.no_grad(), watched(denoiser) as curves:
            denoiser(x, sigma, class_labels)
        found.features.append({name: curve.tolist() for name, curve in curves.items()})
        seen |= dict.fromkeys(curves)
        expert = denoiser.expert_at(sigma)
        if expert is not None:
            found.experts.append(expert + 1)
    found.layers = list(seen)
    return found


def _map_of(module: nn.Module, output: Any) -> Tensor | None:
    """An output as (batch, channels, height, width), if it is a map of 2 x 2 pixels or more."""
    output = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(output, Tensor):
        return None
    if getattr(module, "in_windows", False):  # (batch, windows, tokens, channels)
        output = output.flatten(0, 1)
    if output.dim() == 3:  # (batch, tokens, channels)
        side = math.isqrt(output.shape[1])
        if side**2 != output.shape[1]:
            return None
        output = output.transpose(1, 2).unflatten(2, (side, side))
    return output if output.dim() == 4 and min(output.shape[2:]) > 1 else None


def _is_list(module: nn.Module) -> bool:
    """Whether a module is a list of blocks."""
    return isinstance(module, nn.ModuleList) and not any(
        type(entry).__module__.startswith("torch.nn") for entry in module
    )
