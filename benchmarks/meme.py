"""The inception cell against the textbook, and what routing to experts costs: one JSON line a case.

    python benchmarks/meme.py [--seconds 10] [--cases block routing residence]

block      a block of width 256 at 16 x 16, batch 16, half of the heads low, forward: the library's
           under its own precision (and in float32, and bfloat16) against one written the textbook
           way in float32 (features channels-first, softmax of an explicit score matrix), same
           weights, taking turns
routing    a step of the sampler with four experts against one with the expert itself: the time
           spent in finding the expert, as a share
residence  on a GPU: peak memory and time of sampling with all experts there, with two and with one
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from speed import awake, rates, run
from torch import Tensor, nn

from overtone import precision
from overtone.denoisers import EDMDenoiser, ExpertDenoiser
from overtone.denoisers.intervals import intervals_of
from overtone.networks import IUNet, IUNetConfig
from overtone.networks.configs.iunet import inception_heads
from overtone.networks.inception import InceptionCell
from overtone.processes import GaussianProcess, SeededNoise
from overtone.processes.discrete import step_shares
from overtone.samplers import Sampler

WIDTH, SIZE, BATCH, HEADS = 256, 16, 16, 8
NETWORK = IUNetConfig(
    widths=(64, 128, 192), num_cells=2, head_channels=16, embedding_width=256, dropout=0.0
)


class Textbook(nn.Module):
    """The same block, each formula written out, on the weights of ours."""

    def __init__(self, cell: InceptionCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        cell = self.cell
        scale_1, shift_1, scale_2, shift_2 = cell.affine(embedding)[:, :, None, None].chunk(4, 1)
        x = x + self.mixer((1 + scale_1) * norm(x, cell.norm1) + shift_1)
        h = ((1 + scale_2) * norm(x, cell.norm2) + shift_2).permute(0, 2, 3, 1)
        return x + cell.mlp(h).permute(0, 3, 1, 2)

    def mixer(self, x: Tensor) -> Tensor:
        mixer = self.cell.mixer
        conv, pool, low = x.split(mixer.split, dim=1)
        conv = F.gelu(mixer.conv(mixer.conv_in(conv)))
        pool = F.gelu(mixer.pool_in(F.max_pool2d(pool, 3, 1, 1)))
        batch, channels, height, width = low.shape
        tokens = low.flatten(2).transpose(1, 2)
        qkv = mixer.qkv(tokens).view(batch, height * width, 3, mixer.low_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        out = (weights @ v).transpose(1, 2).reshape(batch, height * width, channels)
        low = out.transpose(1, 2).reshape(batch, channels, height, width)
        mixed = torch.cat((conv, pool, low), dim=1)
        return mixer.proj(mixed + mixer.fuse(mixed))


def norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def block(seconds: float) -> Iterator[dict[str, Any]]:
    device = precision.default_device()
    torch.manual_seed(0)
    cell = awake(InceptionCell(WIDTH, HEADS, HEADS // 2, embedding_width=WIDTH)).eval().to(device)
    textbook = Textbook(cell)
    ours = InceptionCell(WIDTH, HEADS, HEADS // 2, embedding_width=WIDTH).to(device).eval()
    ours.load_state_dict(cell.state_dict())
    ours.to(memory_format=torch.channels_last)
    x, embedding = torch.randn(BATCH, WIDTH, SIZE, SIZE).to(device), torch.randn(BATCH, WIDTH)
    embedding = embedding.to(device)
    last = x.contiguous(memory_format=torch.channels_last)

    def call(module: nn.Module, x: Tensor, dtype: precision.Precision) -> None:
        with precision.autocast(dtype, device):
            module(x, embedding)

    with torch.no_grad():
        assert torch.allclose(ours(last, embedding), textbook(x, embedding), atol=1e-4)
        variants = {
            "textbook_fp32": partial(call, textbook, x, "fp32"),
            "default": partial(call, ours, last, "auto"),
            "fp32": partial(call, ours, last, "fp32"),
            "bf16": partial(call, ours, last, "bf16"),
        }
        found = rates(variants, BATCH, seconds, device)
    line = {"case": f"block, width {WIDTH}, {SIZE} px, batch {BATCH}"}
    yield line | {
        f"{name}_over_textbook": round(rate / found["textbook_fp32"], 2)
        for name, rate in found.items()
        if name != "textbook_fp32"
    }


def experts() -> ExpertDenoiser:
    boundaries = step_shares(Sampler().sigmas, 4)
    networks = []
    for number in (1, 2, 3, 4):
        heads = inception_heads(NETWORK.widths, NETWORK.head_channels, number, 4)
        networks.append(IUNet(dataclasses.replace(NETWORK, inception_heads=heads)))
    denoisers = [EDMDenoiser(awake(network).eval().to_fast_layout()) for network in networks]
    return ExpertDenoiser(denoisers, intervals_of(boundaries))


def routing(seconds: float) -> Iterator[dict[str, Any]]:
    """By the denoiser's own time around that of the expert: no difference of two measurements."""
    device = precision.default_device()
    denoiser = experts().to(device)
    x = torch.randn(4, 3, 32, 32, device=device)
    inner: list[float] = []

    def timed(forward: Any) -> Any:
        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            out = forward(*arguments)
            inner.append(time.perf_counter() - began)
            return out

        return call

    for expert in denoiser.experts:
        expert.forward = timed(expert.forward)
    shares, began = [], time.perf_counter()
    with torch.no_grad(), precision.autocast("auto", device):
        while time.perf_counter() - began < seconds:
            for sigma in Sampler().sigmas[:-1]:
                inner.clear()
                start = time.perf_counter()
                denoiser(x, sigma)
                whole = time.perf_counter() - start
                shares.append((whole - inner[0]) / whole)
    yield {"case": "routing, batch 4 at 32 px", "share": round(statistics.median(shares), 5)}


def residence(seconds: float) -> Iterator[dict[str, Any]]:
    device = precision.default_device()
    if device.type != "cuda":
        return
    for resident in (None, 2, 1):
        denoiser = experts()
        denoiser.to(device) if resident is None else denoiser.reside(device, resident)
        sampler, process = Sampler(), GaussianProcess()
        torch.cuda.reset_peak_memory_stats()
        times = []
        with torch.no_grad(), precision.autocast("auto", device):
            for _ in range(4):
                source = SeededNoise(range(16))
                start = 80.0 * process.noise(torch.empty(16, 3, 32, 32, device=device), source)
                torch.cuda.synchronize()
                began = time.perf_counter()
                sampler(denoiser, process, start, source)
                torch.cuda.synchronize()
                times.append(time.perf_counter() - began)
        megabytes = torch.cuda.max_memory_allocated() / 2**20
        line = {"case": f"sampling, {resident or 'all'} resident", "seconds": round(min(times), 3)}
        yield line | {"peak_MiB": round(megabytes, 1)}
        del denoiser
        torch.cuda.empty_cache()


CASES = {"block": block, "routing": routing, "residence": residence}


if __name__ == "__main__":
    run(CASES, __doc__)
