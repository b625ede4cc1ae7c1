"""What many GPUs would do, on paper: the tables of docs/scale.md.

    python benchmarks/scale.py

Nothing is measured. Parameters and multiply-adds are counted on networks without numbers. A GPU is
assumed to reach 40 % of the 790 TFLOP/s that a bf16 product reaches on an H100. It sends 450 GB/s
to the others of its machine of eight (NVLink), and 50 GB/s to other machines (one 400 Gb/s link).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from overtone import find_recipe
from overtone.networks.network import multiply_adds

FLOPS = 0.4 * 790e12
WITHIN, BETWEEN = 450e9, 50e9
"""bytes a second that a GPU sends within its machine, and to other machines"""
MACHINE = 8
GPUS = (8, 64, 1024)
RECIPES = (
    "diffit-cifar10", "meme-celeba64", "relay-imagenet", "relay-celebahq",
    "diffit-latent-imagenet256", "diffit-latent-imagenet512",
)  # fmt: skip
OPERATORS = {"dsno-cifar10": (3, 32), "dsno-imagenet64": (3, 64)}
"""channels and side of their images"""


def network_of(name: str) -> tuple[Any, int, float]:
    """A recipe, its parameters, and the floating-point operations of an image in training."""
    recipe: Any = find_recipe(name)
    config = recipe.network.with_classes(1000 if recipe.class_conditional else 0)
    with torch.device("meta"):
        network = config.build()
    return recipe, network.num_parameters, 3 * 2 * float(multiply_adds(network))


def seconds_between(count: int, sent: float) -> float:
    """How long each GPU takes to send so many bytes, by the slowest link on the way."""
    return sent / (WITHIN if count <= MACHINE else BETWEEN)


def training() -> Iterator[str]:
    """A step by recipe and number of GPUs: computing, and the sum of gradients (DDP) or the parts
    of a sharded model (FSDP 2), all of which may overlap with the backward pass."""
    columns = "recipe", "parameters", "GFLOP an image", "GPUs", "images a GPU"
    yield f"| {' | '.join(columns)} | computing | DDP | FSDP 2 |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in RECIPES:
        recipe, parameters, flops = network_of(name)
        batch = recipe.training.batch_size
        for count in GPUS:
            each = max(1, batch // count)
            computing = each * flops / FLOPS
            ring = (count - 1) / count
            summed = seconds_between(count, 2 * ring * 4 * parameters)
            sharded = seconds_between(count, 3 * ring * 4 * parameters)
            first = f"`{name}` | {parameters / 1e6:,.0f} M | {flops / 1e9:,.0f}"
            start = first if count == GPUS[0] else " | | "
            more = "" if each * count == batch else " (batch " + f"{each * count:,})"
            yield (
                f"| {start} | {count:,} | {each:,}{more} | {1e3 * computing:,.1f} ms |"
                f" {1e3 * summed:,.1f} ms | {1e3 * sharded:,.1f} ms |"
            )


def storage() -> Iterator[str]:
    """Trajectories that an operator is trained on: the start and the states at its times, fp16."""
    yield "| recipe | trajectories | bytes each | in all | read a step |"
    yield "|---|---|---|---|---|"
    for name, (channels, side) in OPERATORS.items():
        recipe: Any = find_recipe(name)
        states = 1 + (len(recipe.times) or recipe.num_times)
        each = states * channels * side**2 * 2 + 16
        batch = recipe.training.batch_size
        yield (
            f"| `{name}` | {recipe.count:,} | {each:,} | {recipe.count * each / 1e9:,.0f} GB |"
            f" {batch * each / 1e6:,.1f} MB |"
        )


def main() -> None:
    for table in (training, storage):
        print("\n".join(table()), end="\n\n")


if __name__ == "__main__":
    main()
