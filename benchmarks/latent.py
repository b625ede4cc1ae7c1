"""The latent transformer against the textbook, side by side in one run: one JSON line a case.

    python benchmarks/latent.py [--seconds 20] [--cases sampling training memory]

sampling   `b-2` at 256 px, batch 8, guided: the library against an eager transformer written the
           textbook way (softmax of an explicit score matrix, the bias gathered at each call, the
           time's projection added to every token), same weights, same batch, taking turns
training   `xl-2-256` on a GPU: images a second at each batch size, and the share of the bf16 rate
           that a large matrix product reaches on the same card
memory     `xl-2-256`: the peak of a training step by batch size, with checkpointing and without; on
           a GPU the allocator's, elsewhere that of a process of its own
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from speed import awake, machine, rates
from torch import Tensor, nn

from overtone import precision
from overtone.convert.published import LATENT_GUIDANCE as GUIDANCE
from overtone.denoisers import ADM_DIFFUSION, GuidedDenoiser, VPDenoiser
from overtone.networks import DiffiTTransformer, DiffiTTransformerConfig
from overtone.processes import DiscreteSchedule, GaussianProcess, SeededNoise
from overtone.samplers import AncestralSampler
from overtone.training.objectives import DenoisingObjective

BATCH = 8
STEPS = 2  # noise levels at which the sampler's time is measured: the published ones are all alike
BATCHES = (8, 16, 32, 64, 128, 256)


class Textbook(nn.Module):
    """The same network, each formula written out, on the weights of ours."""

    def __init__(self, network: DiffiTTransformer) -> None:
        super().__init__()
        self.network, self.config = network, network.config
        size = network.size
        y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        dy, dx = (c.flatten()[:, None] - c.flatten() + size - 1 for c in (y, x))
        self.register_buffer("index", dy * (2 * size - 1) + dx)

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor | None = None) -> Tensor:
        network, patch = self.network, self.config.patch
        token = network.token(time, class_labels)
        h = network.embed(x).flatten(2).transpose(1, 2) + network.position
        for block in network.blocks:
            h = h + self.attention(block.attention, F.layer_norm(h, h.shape[-1:], eps=1e-6), token)
            h = h + block.mlp(F.layer_norm(h, h.shape[-1:], eps=1e-6))
        h = network.head(F.silu(F.layer_norm(h, h.shape[-1:], eps=1e-6)))
        side = x.shape[2] // patch
        h = h.view(len(x), side, side, patch, patch, -1)
        return torch.einsum("bhwpqc->bchpwq", h).reshape(len(x), -1, *x.shape[2:])

    def attention(self, tmsa: nn.Module, x: Tensor, token: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = tmsa.qkv(x) + tmsa.qkv_time(token[:, None].expand(-1, tokens, -1))
        qkv = qkv.view(batch, tokens, 3, tmsa.heads, width // tmsa.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // tmsa.heads)
        scores = scores + tmsa.bias.table[self.index].permute(2, 0, 1)
        out = scores.softmax(dim=-1) @ v
        return tmsa.proj(out.transpose(1, 2).reshape(batch, tokens, width))


def sampling(seconds: float) -> Iterator[dict]:
    device = precision.default_device()
    network = awake(DiffiTTransformer(DiffiTTransformerConfig.preset("b-2", 1000)), 0.02)
    network = network.eval().to_fast_layout().to(device)
    same = Textbook(network).eval().to(device)
    labels = torch.arange(BATCH, device=device)
    start = 150 * torch.randn(BATCH, 4, 32, 32, device=device)
    levels = DiscreteSchedule(abar=tuple(1 / (1 + s**2) for s in (1.0, 1.1)))
    sampler = AncestralSampler(num_steps=STEPS, schedule=levels)

    def run(model: nn.Module, dtype: precision.Precision) -> Tensor:
        denoiser = GuidedDenoiser(VPDenoiser(model, ADM_DIFFUSION), GUIDANCE[32])
        with torch.no_grad(), precision.autocast(dtype, device):
            source = SeededNoise(range(BATCH))
            return sampler(denoiser, GaussianProcess(), start, source, labels)

    both = run(network, "fp32"), run(same, "fp32")
    error = float((both[0] - both[1]).abs().max() / both[1].abs().max())
    assert error < 1e-4, f"the two networks differ by {error}"
    tasks = {
        f"{name}_{dtype}": partial(run, model, dtype)
        for dtype in ("fp32", "bf16")
        for name, model in (("ours", network), ("textbook", same))
    }
    if device.type == "cuda":
        compiled = DiffiTTransformer(network.config).eval().to_fast_layout().to(device)
        compiled.load_state_dict(network.state_dict())
        for block in compiled.repeated_blocks():
            block.compile()
        tasks["ours_bf16_compiled"] = partial(run, compiled, "bf16")
    measured = rates(tasks, BATCH, seconds, device)
    best = max(rate for name, rate in measured.items() if name.startswith("ours_bf16"))
    yield {
        "case": "b-2 at 256 px, guided",
        "batch": BATCH,
        "network_images_per_second": {k: round(STEPS * r, 3) for k, r in measured.items()},
        "fp32_over_textbook": round(measured["ours_fp32"] / measured["textbook_fp32"], 3),
        "bf16_over_textbook_bf16": round(best / measured["textbook_bf16"], 3),
        "bf16_over_textbook_fp32": round(best / measured["textbook_fp32"], 3),
        "difference": error,
    }


class TrainingStep:
    """The published training step of `xl-2-256`."""

    def __init__(self, checkpointing: bool, compiled: bool = False) -> None:
        self.device = precision.default_device()
        network = DiffiTTransformer(DiffiTTransformerConfig.preset("xl-2-256", 1000))
        network.gradient_checkpointing = checkpointing
        awake(network, 0.02).to_fast_layout().to(self.device)
        self.denoiser = VPDenoiser(network, ADM_DIFFUSION)
        for block in network.repeated_blocks() if compiled else ():
            block.compile()
        self.objective = DenoisingObjective(
            schedule=DiscreteSchedule(),
            weighting=ADM_DIFFUSION,
            num_classes=1000,
            hybrid=True,
            bounded=False,
        )
        self.optimizer = torch.optim.Adam(network.parameters(), 1e-4, fused=True)

    def drawn(self, batch: int) -> dict[str, Tensor]:
        """A batch on the device; loader processes draw it, beside the step."""
        x_0, labels = torch.randn(batch, 4, 32, 32), torch.zeros(batch, dtype=torch.int64)
        drawn = self.objective.draw(x_0, labels, SeededNoise(range(batch)))
        return {name: tensor.to(self.device) for name, tensor in drawn.items()}

    def __call__(self, drawn: dict[str, Tensor]) -> None:
        with precision.autocast("auto", self.device):
            loss = self.objective.loss(self.denoiser, drawn).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def training(seconds: float) -> Iterator[dict]:
    device = precision.default_device()
    if device.type != "cuda":
        return
    peak = matrix_rate(device)
    for compiled in (False, True):
        step = TrainingStep(checkpointing=False, compiled=compiled)
        for batch in BATCHES:
            try:
                rate = rates({"step": partial(step, step.drawn(batch))}, batch, seconds, device)[
                    "step"
                ]
            except torch.OutOfMemoryError:
                break
            # A backward pass costs two forward ones; 118.5 G multiply-adds with attention's.
            flops = 3 * 2 * 118.5e9 * rate
            yield {
                "case": "xl-2-256 training",
                "batch": batch,
                "compiled": compiled,
                "images_per_second": round(rate, 2),
                "share_of_measured_peak": round(flops / peak, 3),
                "measured_peak_tflops": round(peak / 1e12, 1),
            }


def matrix_rate(device: torch.device) -> float:
    """Operations a second of a large bf16 matrix product."""
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    rate = rates({"product": lambda: (a @ a, None)[1]}, 1, 2.0, device)["product"]
    return 2 * 8192**3 * rate


def memory(seconds: float) -> Iterator[dict]:
    device = precision.default_device()
    for checkpointing in (True, False):
        for batch in BATCHES if device.type == "cuda" else (1, 2, 4):
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                try:
                    step = TrainingStep(checkpointing)
                    step(step.drawn(batch))
                except torch.OutOfMemoryError:
                    break
                peak, took = torch.cuda.max_memory_allocated(), None
            else:  # a process of its own, whose peak is asked for at its end
                command = [sys.executable, __file__, "--step", str(batch), str(int(checkpointing))]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:  # killed for its memory
                    break
                peak, took = (float(number) for number in done.stdout.split())
            yield {
                "case": "xl-2-256 training step",
                "batch": batch,
                "checkpointing": checkpointing,
                "peak_GiB": round(peak / 2**30, 2),
                "seconds": took,
            }


def one_step(batch: int, checkpointing: int) -> None:
    import resource

    step = TrainingStep(bool(checkpointing))
    drawn = step.drawn(batch)
    step(drawn)
    began = time.perf_counter()
    step(drawn)
    took = time.perf_counter() - began
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, round(took, 1))


CASES = {"sampling": sampling, "training": training, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="on the slowest variant")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--step", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        one_step(*options.step)
        return
    torch.manual_seed(0)
    print(json.dumps(machine()), flush=True)
    for name in options.cases:
        for result in CASES[name](options.seconds):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
