"""What each system adds to its network: routing between experts, layers over time, recording."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overtone.bench.compare import OWN, Asked, Line, against
from overtone.bench.subjects import awake
from overtone.bench.turns import in_turns
from overtone.precision import autocast, default_device

TIMES, MODES = 4, 2
IMAGES = 64


def systems(asked: Asked) -> Iterator[Line]:
    """All of them, one after another."""
    for case in (routing, temporal_layers, operator, recording):
        yield from case(asked)


def routing(asked: Asked) -> Iterator[Line]:
    """The share of a step of four experts that is not spent within the expert."""
    from overtone.denoisers import EDMDenoiser, ExpertDenoiser
    from overtone.denoisers.intervals import intervals_of
    from overtone.networks import IUNetConfig
    from overtone.networks.configs.iunet import inception_heads
    from overtone.processes.discrete import step_shares
    from overtone.samplers import Sampler

    device, sigmas = default_device(), Sampler().sigmas
    config = IUNetConfig(
        widths=(64, 128, 192), num_cells=2, head_channels=16, embedding_width=256, dropout=0.0
    )
    experts = []
    for number in (1, 2, 3, 4):
        heads = inception_heads(config.widths, config.head_channels, number, 4)
        network = awake(dataclasses.replace(config, inception_heads=heads).build())
        experts.append(EDMDenoiser(network.eval().to_fast_layout()))
    denoiser = ExpertDenoiser(experts, intervals_of(step_shares(sigmas, 4))).to(device)
    inner: list[float] = []
    for expert in denoiser.experts:
        expert.forward = partial(_timed, expert.forward, inner)
    x = torch.randn(4, 3, 32, 32, device=device)
    shares, began = list[float](), time.perf_counter()
    with torch.no_grad(), autocast("auto", device):
        while len(shares) < len(sigmas) or time.perf_counter() - began < asked.seconds:
            for sigma in sigmas[:-1]:
                start = time.perf_counter()
                denoiser(x, sigma)
                whole = time.perf_counter() - start
                shares.append(1 - inner.pop() / whole)
    share = statistics.median(shares)
    yield {
        "case": "experts, finding the expert, batch 4 at 32 px",
        "share_of_step": round(share, 5),
    }


def _timed(forward: Callable[..., Any], inner: list[float], *arguments: Any) -> Any:
    began = time.perf_counter()
    out = forward(*arguments)
    inner.append(time.perf_counter() - began)
    return out


def temporal_layers(asked: Asked) -> Iterator[Line]:
    """The time that temporal layers add to the forward of as many images at four times."""
    from overtone.networks import ADMConfig, DiffiTConfig, temporalize

    device = default_device()
    x = torch.randn(4, 3, 32, 32, device=device)
    times = torch.linspace(1, 0, TIMES, device=device)
    folded, at = x.repeat_interleave(TIMES, 0), times.repeat(4)

    def run(network: Any, *arguments: Tensor) -> None:
        with torch.no_grad(), autocast("auto", device):
            network(*arguments)

    kinds: dict[str, Any] = {
        "ADM": ADMConfig(dropout=0.0),
        "DiffiT": DiffiTConfig(widths=(64, 128, 128), num_cells=(1, 1, 2)),
    }
    for name, config in kinds.items():
        network = awake(config.build()).eval().to_fast_layout().to(device)
        with_time = awake(temporalize(network, MODES)).eval().to_fast_layout().to(device)
        turns = in_turns(
            {
                "network": partial(run, network, folded, at),
                "temporal": partial(run, with_time, x, times),
            },
            asked.seconds,
        )
        yield {
            "case": f"temporal layers of {name}, {TIMES} times at 32 px",
            "time_added": round(turns.ratio("network", "temporal")[0] - 1, 4),
            "parameters_added": round(with_time.num_parameters / network.num_parameters - 1, 4),
        }


def operator(asked: Asked) -> Iterator[Line]:
    """Images of an operator, one evaluation, beside its teacher's 18 steps of Heun's method."""
    teacher, student = _pipelines()
    turns = in_turns(
        {OWN: partial(_sample, student), "its teacher": partial(_sample, teacher)}, asked.seconds
    )
    yield {"case": f"operator, the digits' network, batch {IMAGES}"} | against(turns, {}, IMAGES)


def recording(asked: Asked) -> Iterator[Line]:
    """Trajectories recorded in files, beside sampling alone."""
    from overtone.training.collect import collect
    from overtone.training.configs.distillation import DistillationRecipe
    from overtone.training.teacher import teacher_of

    pipe, _ = _pipelines()
    teacher = teacher_of(pipe, "teacher")
    recipe = DistillationRecipe("", count=IMAGES, held_out=0, first_seed=0)

    def collected() -> None:
        with tempfile.TemporaryDirectory() as folder:
            collect(recipe, teacher, Path(folder) / "kept", show=False)

    turns = in_turns({OWN: collected, "sampling": partial(_sample, pipe)}, asked.seconds)
    yield {"case": f"collecting {IMAGES} trajectories in files"} | against(turns, {}, IMAGES)


def _sample(pipe: Any) -> None:
    for _ in pipe.stream(range(IMAGES)):
        pass


def _pipelines() -> tuple[Any, Any]:
    """A teacher of the size of the digits, and an operator on it."""
    from overtone.denoisers import EDMPreconditioning, OperatorPreconditioning
    from overtone.networks import DiffiTConfig, temporalize
    from overtone.pipelines import DSNOPipeline, Pipeline
    from overtone.processes import FLOW_TIME, spaced
    from overtone.samplers import OperatorSampler, Sampler
    from overtone.training.collect import kept_steps

    config = DiffiTConfig(
        resolution=8, channels=1, num_classes=10, widths=(64, 64), num_cells=(1, 1),
        head_channels=32, token_width=128, mlp_ratio=2.0,
    )  # fmt: skip
    device, sigmas = default_device(), Sampler().sigmas
    teacher = Pipeline(awake(config.build()).eval()).to(device)
    kept = kept_steps(sigmas, spaced(TIMES, "quad", float(FLOW_TIME.t(sigmas[0]))))
    student = DSNOPipeline(
        awake(temporalize(teacher.network, MODES)).eval(),
        OperatorSampler(tuple(sigmas[i] for i in kept)),
        preconditioning=OperatorPreconditioning(EDMPreconditioning()),
    )
    return teacher, student.to(device)
