"""A step of relay diffusion's sampler (Teng et al. 2024, arXiv 2309.03350, section 3.2) in the way
of its published code: each patch's DCT by FFTs in float64, the blocks' noise as rolled sums, the
coefficients computed anew."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from overtone.processes.relay import RelayProcess

Draw = Callable[[], Tensor]


def written(
    process: RelayProcess,
    x: Tensor,
    x_0: Tensor,
    draw: Draw,
    sigma: float,
    sigma_next: float,
    eta: float,
) -> Tensor:
    """u' = (D' + gamma (1 - D)) u + sigma (gamma D - D') (u - u_0) / sigma + eta sigma' noise, for
    x at sigma and the estimate x_0."""
    size, gamma = process.patch, math.sqrt(1 - eta**2) * sigma_next / sigma
    x, x_0 = x.double(), x_0.double()
    now, later = _kept(process, sigma), _kept(process, sigma_next)
    u, u_0 = (_both_axes(_patches(image, size), _dct) for image in (x, x_0))
    slope = (u - u_0) / sigma
    u_next = (later + gamma * (1 - now)) * u + sigma * (gamma * now - later) * slope
    noise = draw() + process.block_scale * _rolled(draw(), size)
    noise = noise / math.sqrt(1 + process.block_scale**2)
    return _pixels(_both_axes(u_next, _idct)) + eta * sigma_next * noise


def draws(shape: tuple[int, ...], dtype: torch.dtype) -> Draw:
    """Noise as the published code draws it: image by image, each from its generator."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(shape[0])]
    return lambda: torch.stack(
        [torch.randn(shape[1:], generator=generator, dtype=dtype) for generator in generators]
    )


def _dct(x: Tensor) -> Tensor:
    """The orthonormal DCT-II of the last axis through an FFT of its even and odd halves."""
    n = x.shape[-1]
    reordered = torch.cat((x[..., ::2], x[..., 1::2].flip(-1)), -1)
    angle = -math.pi * torch.arange(n, dtype=x.dtype) / (2 * n)
    spectrum = torch.fft.fft(reordered) * torch.complex(angle.cos(), angle.sin())
    out = spectrum.real * math.sqrt(2 / n)
    out[..., 0] /= math.sqrt(2)
    return out


def _idct(u: Tensor) -> Tensor:
    """Its inverse, the same way back."""
    n = u.shape[-1]
    u = u * math.sqrt(n / 2)
    u[..., 0] *= math.sqrt(2)
    angle = math.pi * torch.arange(n, dtype=u.dtype) / (2 * n)
    imaginary = torch.cat((torch.zeros_like(u[..., :1]), -u.flip(-1)[..., :-1]), -1)
    spectrum = torch.complex(u, imaginary) * torch.complex(angle.cos(), angle.sin())
    reordered = torch.fft.ifft(spectrum).real
    out = torch.empty_like(reordered)
    half = (n + 1) // 2
    out[..., ::2], out[..., 1::2] = reordered[..., :half], reordered[..., half:].flip(-1)
    return out


def _patches(x: Tensor, size: int) -> Tensor:
    return x.unflatten(3, (-1, size)).unflatten(2, (-1, size)).transpose(3, 4)


def _pixels(p: Tensor) -> Tensor:
    return p.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def _both_axes(p: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    return transform(transform(p).transpose(-1, -2)).transpose(-1, -2)


def _kept(process: RelayProcess, sigma: float) -> Tensor:
    """What is kept of each coefficient, computed from the formula."""
    size, t = process.patch, process.schedule.t(sigma)
    tau = (process.blur_sigma_max * torch.sin(t * math.pi / 2) ** 2) ** 2 / 2
    frequency = math.pi * torch.arange(size, dtype=torch.float64) / size
    labda = frequency[:, None] ** 2 + frequency**2
    return torch.exp(-labda * tau) * (1 - process.min_scale) + process.min_scale


def _rolled(white: Tensor, size: int) -> Tensor:
    total = torch.zeros_like(white)
    for i in range(size):
        for j in range(size):
            total += white.roll((i, j), (2, 3))
    return total / size
