"""The temporal convolution against complex FFTs, and what it adds: one JSON line a case.

    python benchmarks/dsno.py [--seconds 10] [--cases conv share operator collect]

conv       at (batch, times, channels, height, width) (4, 4, 128, 32, 32) and (8, 4, 256, 16, 16),
           two modes: the library's, in float32 and bfloat16, against torch.fft and a complex
           einsum, in float32, as published; the same weights
share      a U-Net and a DiffiT U-Net at 32 px: the time that temporal layers add to the forward
           of the same batch of images at four times
operator   images a second: an operator of four times, one evaluation, against its teacher's 18
           steps of Heun's method (35 evaluations)
collect    evaluations of a teacher a second: with its trajectories recorded, against sampling
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from speed import awake, rates, run
from torch import Tensor, nn

from overtone import precision
from overtone.denoisers import EDMPreconditioning, OperatorPreconditioning
from overtone.networks import ADMConfig, ADMUNet, DiffiTConfig, DiffiTUNet, Network, temporalize
from overtone.networks.spectral import TemporalConv
from overtone.pipelines import DSNOPipeline, Pipeline
from overtone.processes import FLOW_TIME, spaced
from overtone.samplers import OperatorSampler, Sampler
from overtone.training.collect import collect, kept_steps
from overtone.training.configs.distillation import DistillationRecipe
from overtone.training.teacher import teacher_of

SHAPES = ((4, 4, 128, 32, 32), (8, 4, 256, 16, 16))
TIMES, MODES = 4, 2


def textbook(u: Tensor, weight: Tensor) -> Tensor:
    """u + leaky_relu(irfft(R rfft(u))), R complex (in, out, mode)."""
    transformed = torch.fft.rfft(u, dim=1)
    product = torch.zeros_like(transformed)
    kept = transformed[:, : weight.shape[2]]
    product[:, : weight.shape[2]] = torch.einsum("bmihw,iom->bmohw", kept, weight)
    return u + F.leaky_relu(torch.fft.irfft(product, n=u.shape[1], dim=1), 0.01)


def conv(seconds: float) -> Iterator[dict[str, Any]]:
    device = precision.default_device()
    for shape in SHAPES:
        torch.manual_seed(0)
        layer = awake(TemporalConv(shape[2], MODES)).eval().to(device)
        parts = layer.weight[:, 0].detach()
        weight = torch.stack(
            (torch.complex(parts[0], torch.zeros_like(parts[0])), torch.complex(*parts[1:])), -1
        )
        u = torch.randn(shape, device=device)
        # Networks hold features with their channels last.
        last = u.movedim(2, -1).contiguous().movedim(-1, 2)
        half = last.bfloat16()
        with torch.no_grad():
            assert torch.allclose(layer(last), textbook(u, weight), atol=1e-4)

            def rounded(layer: nn.Module = layer, half: Tensor = half) -> None:
                with torch.autocast(device.type, torch.bfloat16):
                    layer(half)

            found = rates(
                {
                    "complex": partial(textbook, u, weight),
                    "fp32": partial(layer, last),
                    "bf16": rounded,
                },
                shape[0],
                seconds,
                device,
            )
        line = {"case": f"conv {shape}", "complex_ms": round(1e3 * shape[0] / found["complex"], 2)}
        yield line | {
            f"{name}_over_complex": round(found[name] / found["complex"], 2)
            for name in ("fp32", "bf16")
        }


NETWORKS: dict[str, tuple[type[Network], Any]] = {
    "ADM": (ADMUNet, ADMConfig(dropout=0.0)),
    "DiffiT": (DiffiTUNet, DiffiTConfig(widths=(64, 128, 128), num_cells=(1, 1, 2))),
}


def share(seconds: float) -> Iterator[dict[str, Any]]:
    device = precision.default_device()
    for name, (kind, config) in NETWORKS.items():
        torch.manual_seed(0)
        network = awake(kind(config)).eval().to_fast_layout().to(device)
        operator = awake(temporalize(network, MODES)).eval().to_fast_layout().to(device)
        x = torch.randn(4, 3, 32, 32, device=device)
        times = torch.linspace(1, 0, TIMES, device=device)
        folded, at = x.repeat_interleave(TIMES, 0), times.repeat(4)

        def run(task: Any, *arguments: Tensor) -> None:
            with precision.autocast("auto", device):
                task(*arguments)

        with torch.no_grad():
            found = rates(
                {
                    "network": partial(run, network, folded, at),
                    "with": partial(run, operator, x, times),
                },
                4,
                seconds,
                device,
            )
        added = operator.num_parameters / network.num_parameters - 1
        yield {
            "case": f"share, {name}",
            "time_added": round(found["network"] / found["with"] - 1, 4),
            "parameters_added": round(added, 4),
        }


def pipelines() -> tuple[Pipeline, Pipeline]:
    torch.manual_seed(0)
    config = DiffiTConfig(
        resolution=8,
        channels=1,
        num_classes=10,
        widths=(64, 64),
        num_cells=(1, 1),
        head_channels=32,
        token_width=128,
        mlp_ratio=2.0,
    )
    device = precision.default_device()
    teacher = Pipeline(awake(DiffiTUNet(config)).eval()).to(device)
    sigmas = Sampler().sigmas
    kept = kept_steps(sigmas, spaced(TIMES, "quad", float(FLOW_TIME.t(sigmas[0]))))
    operator = DSNOPipeline(
        awake(temporalize(teacher.network, MODES)).eval(),
        OperatorSampler(tuple(sigmas[i] for i in kept)),
        preconditioning=OperatorPreconditioning(EDMPreconditioning()),
    )
    return teacher, operator.to(device)


def operator(seconds: float) -> Iterator[dict[str, Any]]:
    teacher, student = pipelines()
    device = teacher.device
    batch = 64

    def sample(pipe: Any) -> None:
        for _ in pipe.stream(range(batch)):
            pass

    tasks = {"teacher": partial(sample, teacher), "operator": partial(sample, student)}
    found = rates(tasks, batch, seconds, device)
    yield {
        "case": f"operator, the digits' network, batch {batch}",
        "teacher_images_per_second": round(found["teacher"], 1),
        "over_teacher": round(found["operator"] / found["teacher"], 2),
    }


def recording(seconds: float) -> Iterator[dict[str, Any]]:
    pipe, _ = pipelines()
    teacher = teacher_of(pipe, "teacher")
    recipe = DistillationRecipe("", count=128, held_out=0, first_seed=0)

    def sample() -> None:
        for _ in pipe.stream(range(128)):
            pass

    def collected() -> None:
        with tempfile.TemporaryDirectory() as folder:
            collect(recipe, teacher, Path(folder) / "kept", show=False)

    found = rates({"sampling": sample, "collecting": collected}, 128, seconds, pipe.device)
    yield {
        "case": "collect, the digits' network, 128 trajectories, files written",
        "over_sampling": round(found["collecting"] / found["sampling"], 4),
    }


CASES = {"conv": conv, "share": share, "operator": operator, "collect": recording}


if __name__ == "__main__":
    run(CASES, __doc__)
