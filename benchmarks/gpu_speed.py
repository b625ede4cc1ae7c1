"""The cases of gpu.py that measure speed: a network of a recipe in training and in sampling, the
variants of a case side by side in one run."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from overtone import find_recipe
from overtone import precision as precisions
from overtone.bench.subjects import awake
from overtone.denoisers import NetworkDenoiser
from overtone.networks.attend import BiasWay, biased_by
from overtone.networks.attention import RelativePositionBias
from overtone.networks.network import compile_network
from overtone.processes import SeededNoise
from overtone.training import DenoisingObjective

RECIPES = {
    "cuda": {
        "diffit-cifar10": 256,
        "relay-celebahq": 8,
        "diffit-latent-imagenet256": 64,
        "meme-celeba64": 128,
    },
    "cpu": {
        "diffit-digits": 8,
        "relay-glyphs": 2,
        "diffit-latent-glyphs": 4,
        "meme-digits": 8,
    },
}
"""The recipes, with the batch that is tried first; it is halved where the memory is too small."""
SECONDS = {"cuda": 3.0, "cpu": 0.3}
"""on each variant"""
LEAST = 3
"""repetitions, at the least"""


class Variant(NamedTuple):
    """A way to run a network."""

    name: str
    compiled: bool = False
    channels_last: bool = True
    bias: BiasWay | Literal["detached"] = "mask"


VARIANTS = (
    Variant("eager"),
    Variant("compiled", compiled=True),
    Variant("contiguous", channels_last=False),
    Variant("bias folded", bias="folded"),
    Variant("bias scored", bias="scored"),
    Variant("bias scored, compiled", compiled=True, bias="scored"),
    Variant("bias folded, compiled", compiled=True, bias="folded"),
    Variant("bias detached", bias="detached"),
)
"""What the bias costs is between learned, in three ways, and detached: with no gradient of it."""


class Work:
    """A recipe's network in one variant: a training step, and an evaluation in sampling."""

    def __init__(self, name: str, batch: int, device: torch.device, variant: Variant) -> None:
        recipe: Any = find_recipe(name)
        config = recipe.network.with_classes(10 if recipe.class_conditional else 0)
        if recipe.augmentation:
            config = config.with_augmentation(9)
        torch.manual_seed(0)
        network = awake(config.build(), 0.02)
        layout = torch.channels_last if variant.channels_last else torch.contiguous_format
        self.network = network.to(memory_format=layout).to(device)
        self.way: BiasWay = "mask" if variant.bias == "detached" else variant.bias
        if variant.bias == "detached":
            for module in network.modules():
                if isinstance(module, RelativePositionBias):
                    module.table.requires_grad_(False)
        self.model = NetworkDenoiser(self.network, recipe.preconditioning)
        self.objective = DenoisingObjective(
            recipe.schedule, recipe.process, recipe.preconditioning,
            num_classes=config.num_classes, label_dropout=0.1 if config.num_classes else 0.0,
            augmentation=recipe.augmentation, hybrid=config.learns_variance, bounded=False,
        )  # fmt: skip
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, 1e-4, fused=True)
        shape = batch, config.channels, config.resolution, config.resolution
        x_0, labels = torch.rand(shape) * 2 - 1, torch.zeros(batch, dtype=torch.int64)
        drawn = self.objective.draw(x_0, labels, SeededNoise(range(batch)))
        self.batch = {key: value.to(device) for key, value in drawn.items()}
        self.device, self.size = device, batch
        if variant.compiled:
            compile_network(self.model)

    def training(self) -> None:
        self.model.train()
        with biased_by(self.way), precisions.autocast("auto", self.device):
            loss = self.objective.loss(self.model, self.batch).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def sampling(self) -> Tensor:
        self.model.eval()
        labels = self.batch.get("class_labels")
        with torch.no_grad(), biased_by(self.way), precisions.autocast("auto", self.device):
            return self.model(self.batch["x_0"], 1.0, labels).x_0


def cases(device: torch.device, clock: Any) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """The cases: for each recipe all variants, training first."""
    peak: dict[str, float] = {}

    def measured_peak() -> dict[str, Any]:
        peak["flops"] = matmul_rate(device)
        return {"bf16_TFLOPs": round(peak["flops"] / 1e12, 2)}

    yield "peak of a matrix product", measured_peak
    for variant in VARIANTS:
        for name, batch in RECIPES[device.type].items():
            if variant.bias != "mask" and not has_bias(name):
                continue
            if device.type == "cpu" and (variant.compiled or variant.bias == "scored"):
                continue  # compiling takes minutes there, and FlexAttention has no gradients
            for what in ("training", "sampling"):
                if what == "sampling" and variant.bias == "detached":
                    continue  # without gradients it is the same
                yield (
                    f"{name} {what}, {variant.name}",
                    lambda n=name, b=batch, v=variant, w=what: measured(
                        n, b, device, v, w, peak.get("flops", 0.0)
                    ),
                )


def has_bias(name: str) -> bool:
    """Whether the network of a recipe has a learned position bias."""
    with torch.device("meta"):
        network = find_recipe(name).network.build()  # type: ignore[attr-defined]
    return any(isinstance(module, RelativePositionBias) for module in network.modules())


def measured(
    name: str, batch: int, device: torch.device, variant: Variant, what: str, peak: float
) -> dict[str, Any]:
    """Images a second, FLOP, the share of the peak, and memory, at the largest batch that fits."""
    while True:
        try:
            return _measured(name, batch, device, variant, what, peak)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
            torch.cuda.empty_cache()


def _measured(
    name: str, batch: int, device: torch.device, variant: Variant, what: str, peak: float
) -> dict[str, Any]:
    on_card = device.type == "cuda"
    flops = flops_of(name, batch, device, what)
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    work = Work(name, batch, device, variant)
    task = getattr(work, what)
    task()  # compiles, and chooses kernels
    task()
    wait(device)
    first = time.perf_counter() - began
    seconds = repeated(task, device)
    found: dict[str, Any] = {
        "batch": batch,
        "images_per_second": round(batch / seconds, 2),
        "GFLOP_per_image": round(flops / batch / 1e9, 2),
        "seconds_before_the_first": round(first, 1),
    }
    if peak:
        found["share_of_peak"] = round(flops / seconds / peak, 3)
    if on_card:
        found["memory_GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return found


def flops_of(name: str, batch: int, device: torch.device, what: str) -> float:
    """Floating-point operations of the task, counted on one image without compiling."""
    work = Work(name, 1, device, VARIANTS[0])
    with FlopCounterMode(display=False) as counter:
        getattr(work, what)()
    return float(batch * counter.get_total_flops())


def repeated(task: Callable[[], object], device: torch.device) -> float:
    """The median time of a task."""
    times: list[float] = []
    while len(times) < LEAST or sum(times) < SECONDS[device.type]:
        began = time.perf_counter()
        task()
        wait(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def matmul_rate(device: torch.device) -> float:
    """Operations a second of a large product in bfloat16: what the card reaches at best."""
    size = 8192 if device.type == "cuda" else 512
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    b = copy.deepcopy(a)
    a @ b
    wait(device)
    return float(2 * size**3 / repeated(lambda: a @ b, device))
