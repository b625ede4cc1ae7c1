"""What is run on a pretended device: cases by group, and what each of them may wait for.

    python tests/pretended_cases.py --device cuda --group networks

prints a line of JSON a case. A case is made and called twice on the CPU and on the device, from the
same weights and seeds. It fails by an exception, by another result than the CPU's, by a float64
tensor of 4096 or more numbers on the device, and by whatever makes the host wait and is not in
`ALLOWED`. Under Apple's device waits are not judged: memory is one there, and nothing is pinned.
"""

import argparse
import json
import os
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

os.environ.setdefault("OVERTONE_CACHE", tempfile.mkdtemp(prefix="overtone-pretended-"))

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_leaves

import pretended_networks
import pretended_parts
import pretended_pipelines
import pretended_training
from overtone.registry import FAMILIES
from pretended import Pretence, can_autocast, on_host
from pretended_parts import Call, Case, normal


class Allowed(NamedTuple):
    """A wait that may be, and why."""

    wait: str
    """FILE FUNCTION: what it waits for"""
    most: int
    """how often in one call of a case"""
    reason: str
    only_first: bool = False
    """whether the second call has no need of it any more"""


ONCE_A_BATCH = "once a batch, before its first step"
DIFFUSERS = "samplers/schedulers.py SchedulerSampler.path in diffusers"

ALLOWED = (
    Allowed(
        "networks/spectral.py TemporalConv._bases: copies from the host",
        28,
        "the waves over time, kept by each layer for each number of times",
        only_first=True,
    ),
    Allowed(
        "networks/diffit.py DiffiTTransformer.forward: copies from the host",
        1,
        "the positions of another grid, kept until another one is asked for",
        only_first=True,
    ),
    Allowed(
        "processes/discrete.py DiscreteSchedule._logs: copies from the host",
        1,
        "the noise levels of the steps, kept for each device",
        only_first=True,
    ),
    Allowed(
        "denoisers/operator.py SolutionOperator.times: copies from the host",
        2,
        "the network's times, kept for each choice of them",
        only_first=True,
    ),
    Allowed(
        "training/distill.py TrajectoryObjective.weights: copies from the host",
        1,
        "the weights of the times, kept for each device",
        only_first=True,
    ),
    Allowed(
        "training/halving.py HalvingObjective.loss: copies to the host",
        1,
        "how many images are at each noise level, once a step",
    ),
    Allowed(
        "pipelines/parts.py Parts.to: copies from the host",
        130,
        "the weights of a guide that the case moves to the device in its first call",
        only_first=True,
    ),
    Allowed(
        "pipelines/parts.py Parts.vae: copies from the host",
        100,
        "the weights of a VAE that comes in the first call",
        only_first=True,
    ),
    Allowed(
        "pipelines/pipeline.py Pipeline._begin: copies from the host",
        2,
        f"the classes, {ONCE_A_BATCH}, and those of a relay's first stage",
    ),
    Allowed(
        "pipelines/starts.py RelayStart.__call__: reads a number",
        1,
        f"whether a first stage's images are finite, {ONCE_A_BATCH}",
    ),
    Allowed(
        "pipelines/starts.py RelayStart.__call__: copies from the host",
        1,
        f"a first stage's images that are made on the host, {ONCE_A_BATCH}",
    ),
    Allowed(
        "pipelines/edit.py ImageStart.__call__: copies from the host",
        2,
        f"somebody's pictures and their mask, {ONCE_A_BATCH}",
    ),
    Allowed(
        "pipelines/edit.py ImageStart.known: copies from the host",
        2,
        f"the same for the denoiser that keeps them, {ONCE_A_BATCH}",
    ),
    Allowed(
        "networks/vae.py VAE.latents: copies from the host",
        1,
        "somebody's pictures, which become latents once",
    ),
    Allowed(
        "pipelines/pipeline.py Pipeline._stream: copies to the host",
        1,
        "finished images, once a batch",
    ),
    Allowed(
        "pipelines/pipeline.py Pipeline._stream: reads a number",
        1,
        "whether they are finite, after the last step of a batch",
    ),
    Allowed(
        "pipelines/pipeline.py Pipeline.__call__: copies to the host",
        1,
        "the pictures of finished trajectories, once a batch",
    ),
    Allowed(
        "denoisers/experts.py ExpertDenoiser.forward: reads what unique2 finds",
        1,
        "which experts a batch of several noise levels needs; sampling gives one, a number",
    ),
    Allowed(
        "denoisers/experts.py ExpertDenoiser.forward: copies to the host",
        1,
        "their numbers",
    ),
    Allowed(
        "denoisers/experts.py ExpertDenoiser.forward.<locals>.<listcomp>: reads what nonzero finds",
        3,
        "which images are whose",
    ),
    Allowed(
        "denoisers/experts.py ExpertDenoiser.experts_at: copies from the host",
        1,
        "the bounds of their intervals",
    ),
    Allowed(
        f"{DIFFUSERS}: copies from the host",
        18,
        "noise that a scheduler draws on the host, and numbers of its formula, at every step",
    ),
    Allowed(
        f"{DIFFUSERS}: reads what linalg_check_errors finds",
        2,
        "UniPC solves a system of equations at every step",
    ),
    Allowed(
        "analysis/fourier.py log_amplitude: copies to the host",
        16,
        "the curve of each layer, which is not kept",
    ),
    Allowed(
        "analysis/attention.py _on_host: copies to the host",
        10,
        "the map and the estimate at each noise level, which are not kept on the device",
    ),
    Allowed(
        "analysis/trajectories.py _power: copies to the host",
        1,
        "trajectories whose spectrum is taken in float64, once a batch",
    ),
    Allowed(
        "metrics/features.py by_blocks: copies from the host",
        1,
        "images that are judged, once a batch",
    ),
    Allowed(
        "metrics/features.py by_blocks: copies to the host",
        1,
        "their features, class scores and spatial features, once a batch",
    ),
    Allowed(
        "data/latents.py _encode_block: copies from the host",
        1,
        "images that are encoded, once a batch",
    ),
    Allowed(
        "data/latents.py _encode_block: copies to the host",
        1,
        "their latents, once a batch",
    ),
    Allowed(
        "training/collect.py OnlineTrajectories.fetch: copies to the host",
        1,
        "trajectories solved online become a batch where all batches are drawn",
    ),
    Allowed(
        "training/collect.py OnlineTrajectories.fetch: copies to the host",
        1,
        "the second batch is on its way before the first step",
        only_first=True,
    ),
    Allowed(
        "training/meter.py Meter.check: reads a number",
        1,
        "whether all losses were finite, when they are reported",
    ),
    Allowed(
        "training/meter.py Meter.report: copies to the host",
        1,
        "the means of a report",
    ),
    Allowed(
        "training/loop.py Trainer.held_out_loss: reads a number",
        1,
        "the loss on held-out images",
    ),
)
"""Every wait that there may be. Of those in sampling and training none grows with the number of
steps, but where diffusers' own schedulers wait."""


class Run(NamedTuple):
    """What two calls of a case gave and did."""

    results: list[list[Tensor]]
    waits: list[Counter[str]]
    wide: Counter[str]
    operations: list[int]


def run(case: Case, device: torch.device, pretence: Pretence | None = None) -> Run:
    """A case, made and called twice."""
    done = Run([], [], Counter(), [])
    with nullcontext() if pretence is None else pretence.building():
        torch.manual_seed(0)
        call = case.make(device)
    for _ in range(2):
        torch.manual_seed(1)
        if pretence is not None:
            pretence.forget()
        leaves = (leaf for leaf in tree_leaves(call()) if leaf is not None)
        done.results.append([numbers(leaf) for leaf in leaves])
        if pretence is not None:
            done.waits.append(pretence.waits)
            done.wide.update(pretence.wide)
            done.operations.append(pretence.operations)
    return done


def numbers(value: Any) -> Tensor:
    """Numbers of any kind as a tensor of the host, which nothing is counted for."""
    value = np.asarray(value) if isinstance(value, Image.Image) else on_host(value)
    return torch.as_tensor(value).detach().double()


def failures(case: Case, kind: str, done: dict[str, list[str]]) -> Iterator[str]:
    """What is wrong with a case on a device, each in one line; `done` is told what was counted."""
    wanted = run(case, torch.device("cpu"))
    with Pretence(kind, autocast=case.autocast) as pretence:
        found = run(case, pretence.device, pretence)
        done |= {"sent": sorted(pretence.sent), "waits": sorted(set().union(*found.waits))}
    for one, other in zip(found.results, wanted.results, strict=True):
        yield from mismatches(one, other, case)
    if not all(found.operations):
        yield "nothing ran on the device"
    for operation, count in found.wide.items():
        yield f"float64 on the device, {count} times, {operation}"
    if kind == "cuda":
        for call, waits in zip(("first", "second"), found.waits, strict=True):
            for wait, count in waits.items():
                if count > most_of(wait, call == "first"):
                    yield f"waits in the {call} call, {count} times, {wait}"


def mismatches(found: list[Tensor], wanted: list[Tensor], case: Case) -> Iterator[str]:
    """Where one call's results are not the CPU's."""
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (found, wanted)]
    if shapes[0] != shapes[1]:
        yield f"results of the shapes {shapes[0]}, of the CPU {shapes[1]}"
        return
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        if not other.numel():
            continue
        difference = (one - other).abs()
        typical = difference.mean() if case.autocast else difference.max()
        error = float(typical / other.abs().max().clamp(min=1e-9))
        if not error <= case.tolerance:
            yield f"result {number} differs from the CPU's by {error:.2g} of its largest value"


def most_of(wait: str, first: bool) -> int:
    """How often a wait may be in a call."""
    return sum(a.most for a in ALLOWED if a.wait == wait and (first or not a.only_first))


def mistakes() -> Iterator[Case]:
    """What has to fail, or else nothing that passes means anything; and one that has not."""

    def mixed(device: torch.device) -> Call:
        x = normal(4).to(device)
        return lambda: x + normal(4)

    def reading(device: torch.device) -> Call:
        x = normal(4).to(device)
        return lambda: sum(number.item() for number in x)

    def pageable(device: torch.device) -> Call:
        return lambda: normal(4).to(device, non_blocking=True)

    def pinned(device: torch.device) -> Call:
        return lambda: pin(normal(4), device).to(device, non_blocking=True)

    def masked(device: torch.device) -> Call:
        x = normal(4).to(device)
        return lambda: x[x > 0]

    def wide(device: torch.device) -> Call:
        x = normal(64, 64).to(device)
        return lambda: x.double()

    def wrong(device: torch.device) -> Call:
        x = normal(4).to(device)
        return lambda: x * (1.0 if device.type == "cpu" else 1.01)

    for name, make in {
        "a tensor of the host beside one of the device": mixed,
        "numbers read in a loop": reading,
        "a copy from memory that is not pinned": pageable,
        "a copy from pinned memory, which is right": pinned,
        "a mask as an index": masked,
        "a large tensor of float64": wide,
        "a wrong result": wrong,
    }.items():
        yield Case(name, make)


def pin(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor if device.type == "cpu" else tensor.pin_memory()


GROUPS = {
    "networks": pretended_networks.networks,
    "denoisers": pretended_parts.denoisers,
    "processes": pretended_parts.processes,
    "samplers": pretended_parts.samplers,
    "pipelines": pretended_pipelines.pipelines,
    "measures": pretended_pipelines.measures,
    "training": pretended_training.training,
    "mistakes": mistakes,
}


ON_THE_HOST = "score"
"""the family that computes on features which extractors have brought to the host"""
EXTRAS = (("extractor", "inception"), ("extractor", "dinov2"))
"""kinds whose networks other packages bring"""


def kinds_without_a_case() -> list[str]:
    """The built-in kinds of the registry that no case is of."""
    parts = [part for group in GROUPS.values() for case in group() for part in case.parts]
    covered = {(part.family.name, part.kind) for part in parts}
    built_in = [(family.name, kind) for family in FAMILIES.values() for kind in family.built_in]
    missing = [(f, kind) for f, kind in built_in if f != ON_THE_HOST and (f, kind) not in covered]
    return [f"{family} {kind}" for family, kind in missing if (family, kind) not in EXTRAS]


def tried(case: Case, kind: str, trace: bool) -> dict[str, Any]:
    """A case as a line of the report."""
    began = time.perf_counter()
    found: list[str] = []
    done: dict[str, list[str]] = {}
    try:
        found = list(failures(case, kind, done))
    except Exception as error:  # whatever a case raises is its failure
        if trace:
            traceback.print_exc()
        found = [f"{type(error).__name__}: {error}"]
    seconds = round(time.perf_counter() - began, 2)
    return {"case": case.name, "failures": found, **done, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "mps"))
    parser.add_argument("--group", required=True, choices=GROUPS)
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--trace", action="store_true", help="where an exception came from")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    autocasts = options.device == "cuda" and can_autocast()
    for case in GROUPS[options.group]():
        if options.only in case.name and (autocasts or not case.autocast):
            print(json.dumps(tried(case, options.device, options.trace)), flush=True)


if __name__ == "__main__":
    main()
