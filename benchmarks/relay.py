"""The relay sampler's own arithmetic against the published way, side by side in one run.

    python benchmarks/relay.py [--seconds 10]

step     one half-step at 256 px, batch 4, eta 0.2, given the estimate: the library against the way
         of the published code, written out (each patch's DCT by an FFT in float64, sixteen rolls
         for the blocks, the coefficients computed anew, noise drawn in float64; and, to compare
         like with like, in float32), taking turns
share    that step's share of a whole one with a network of 34 M parameters

One JSON line a case.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial

import torch
from speed import machine
from torch import Tensor

from overtone import precision
from overtone.denoisers import EDMDenoiser
from overtone.networks import ADMConfig, ADMUNet
from overtone.processes import RelayProcess, SeededNoise
from overtone.samplers import Sampler

SHAPE = (4, 3, 256, 256)
SIGMA, NEXT, ETA = 0.5, 0.4, 0.2


def fft_dct(x: Tensor) -> Tensor:
    """The orthonormal DCT-II of the last axis through an FFT of its even and odd halves."""
    n = x.shape[-1]
    reordered = torch.cat((x[..., ::2], x[..., 1::2].flip(-1)), -1)
    angle = -math.pi * torch.arange(n, dtype=x.dtype) / (2 * n)
    spectrum = torch.fft.fft(reordered) * torch.complex(angle.cos(), angle.sin())
    out = spectrum.real * math.sqrt(2 / n)
    out[..., 0] /= math.sqrt(2)
    return out


def fft_idct(u: Tensor) -> Tensor:
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


def patches(x: Tensor, size: int) -> Tensor:
    return x.unflatten(3, (-1, size)).unflatten(2, (-1, size)).transpose(3, 4)


def pixels(p: Tensor) -> Tensor:
    return p.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def both_axes(p: Tensor, transform) -> Tensor:
    return transform(transform(p).transpose(-1, -2)).transpose(-1, -2)


def coefficients(process: RelayProcess, sigma: float) -> Tensor:
    """What is kept of each coefficient, computed from the formula."""
    size = process.patch
    t = process.schedule.t(sigma)
    tau = (process.blur_sigma_max * torch.sin(t * math.pi / 2) ** 2) ** 2 / 2
    frequency = math.pi * torch.arange(size, dtype=torch.float64) / size
    labda = frequency[:, None] ** 2 + frequency**2
    return torch.exp(-labda * tau) * (1 - process.min_scale) + process.min_scale


def rolled(white: Tensor, size: int) -> Tensor:
    total = torch.zeros_like(white)
    for i in range(size):
        for j in range(size):
            total += white.roll((i, j), (2, 3))
    return total / size


Draw = Callable[[], Tensor]


def published(process: RelayProcess, x: Tensor, x_0: Tensor, draw: Draw) -> Tensor:
    """u' = (D' + gamma (1 - D)) u + sigma (gamma D - D') (u - u_0) / sigma + eta sigma' noise."""
    size, gamma = process.patch, math.sqrt(1 - ETA**2) * NEXT / SIGMA
    x, x_0 = x.double(), x_0.double()
    now, later = coefficients(process, SIGMA), coefficients(process, NEXT)
    u, u_0 = (both_axes(patches(image, size), fft_dct) for image in (x, x_0))
    slope = (u - u_0) / SIGMA
    u_next = (later + gamma * (1 - now)) * u + SIGMA * (gamma * now - later) * slope
    noise = draw() + process.block_scale * rolled(draw(), size)
    noise = noise / math.sqrt(1 + process.block_scale**2)
    return pixels(both_axes(u_next, fft_idct)) + ETA * NEXT * noise


def draws(dtype: torch.dtype) -> Draw:
    """Noise as the published code draws it: image by image, each from its generator."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(SHAPE[0])]
    return lambda: torch.stack(
        [torch.randn(SHAPE[1:], generator=generator, dtype=dtype) for generator in generators]
    )


def ours(process: RelayProcess, x: Tensor, x_0: Tensor, source: SeededNoise) -> Tensor:
    return Sampler(eta=ETA).advance(process, x, x_0, SIGMA, NEXT, source)


def seconds_of(function, budget: float) -> float:
    """The median time of a call, over as many as fit."""
    function()
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < budget or len(times) < 5:
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds
    device = precision.default_device()
    print(json.dumps(machine()))
    torch.manual_seed(0)
    process = RelayProcess()
    x, x_0 = torch.randn(SHAPE, device=device), torch.randn(SHAPE, device=device)

    source = SeededNoise(range(SHAPE[0]))
    difference = ours(process, x, x_0, source) - published(
        process, x.cpu(), x_0.cpu(), draws(torch.float32)
    ).to(device)
    assert float(difference.abs().max()) < 1e-5
    cases = {
        "ms": partial(ours, process, x, x_0, source),
        "of_which_noise_ms": partial(process.noise, x, source),
        "published_ms": partial(published, process, x.cpu(), x_0.cpu(), draws(torch.float64)),
        "published_float32_draws_ms": partial(
            published, process, x.cpu(), x_0.cpu(), draws(torch.float32)
        ),
    }
    turns: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(3):
        for case, function in cases.items():
            turns[case].append(seconds_of(function, seconds / 12))
    took = {case: sorted(times)[1] for case, times in turns.items()}
    library = took["ms"]
    line = {"case": "relay step, 4x3x256x256"}
    line |= {case: round(1e3 * time, 2) for case, time in took.items()}
    line |= {"ratio": round(took["published_ms"] / library, 1)}
    line |= {"ratio_float32_draws": round(took["published_float32_draws_ms"] / library, 1)}
    print(json.dumps(line), flush=True)

    config = ADMConfig(
        resolution=256, channels=3, widths=(64, 64, 128, 128, 256, 256), num_cells=2,
        attention_resolutions=(16, 8), embedding_width=256, dropout=0.0,
    )  # fmt: skip
    network = ADMUNet(config).eval().to(device).to_fast_layout()
    denoiser = EDMDenoiser(network)

    def evaluation() -> None:
        with torch.no_grad(), precision.autocast("auto", device):
            denoiser(x, SIGMA)

    whole = seconds_of(evaluation, seconds)
    line = {"case": "share of a step", "parameters_M": round(network.num_parameters / 1e6, 1)}
    line |= {"evaluation_s": round(whole, 3), "share": round(library / (library + whole), 5)}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
