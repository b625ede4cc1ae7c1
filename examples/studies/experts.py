"""Do differently shaped experts pay? MEME's claim (arXiv 2306.04990), asked on Fashion-MNIST.

    python examples/studies/experts.py ratios    which ratio of convolution to attention wins where
    python examples/studies/experts.py models    experts and single networks, at equal training
    python examples/studies/experts.py tables    docs/studies/experts.md, docs/images/experts.png

`ratios` trains one supernet, whose steps draw one of the published ratios, and measures the
held-out loss of each ratio in each expert's interval on the same images and noise. `models` trains
every entry below with about the same number of multiply-adds, and measures the held-out loss of
each interval and the Fréchet distance of five sets of images:

    large              one U-Net of three times the multiply-adds, 65,000 images
    small              one U-Net, 200,000
    iU-Net             one iU-Net, 213,000
    one shape          four U-Nets begun from one trunk, 100,000 and then 25,000 each
    MEME               four iU-Nets begun from their slices of the supernet, 100,000 and 26,000 each
    one shape, alone   four U-Nets, 50,000 each

Runs are kept in `--out` and go on where they stopped; results in docs/studies/experts.json are not
computed again. `--seed 1` trains another time, `--only NAME` one entry.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from study import (
    DOCS,
    Results,
    difference,
    interval_losses,
    mean_and_half,
    run_study,
    shown,
    write_page,
)
from supernet import Supernet, expert_denoisers
from torch import nn

from overtone import Pipeline, load_pipeline, open_data
from overtone.data import held_out
from overtone.denoisers import NetworkDenoiser
from overtone.metrics import Evaluation
from overtone.networks import ADMConfig, Experts, IUNetConfig
from overtone.networks.network import multiply_adds
from overtone.precision import default_device
from overtone.runs import MERGED_FOLDER, find_checkpoint
from overtone.samplers import Sampler
from overtone.training.classifier import classifier_of
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.experts import train_and_merge
from overtone.training.loop import Trainer
from overtone.training.objectives import DenoisingObjective
from overtone.training.progress import Progress
from overtone.training.recipes.meme import meme_fashion_mnist
from overtone.training.task import Task

SETS, SAMPLES = 5, 1_000
TRUNK = 100_000
ENTRIES = ("large", "small", "iU-Net", "one shape", "MEME", "one shape, alone")


def recipe_of(network: Any, images: int, seed: int, *, ends: bool = True) -> DenoisingRecipe:
    """The recipe of meme-fashion-mnist for one network; where it `ends` its learning rate falls."""
    meme = meme_fashion_mnist()
    training = dataclasses.replace(
        meme.training,
        seed=seed,
        total_images=images,
        lr_rampup_images=min(images // 20, 5_000),
        lr_rampdown_images=images // 2 if ends else 0,
        ema_halflife_images=min(images // 20, 5_000),
    )
    reporting = dataclasses.replace(
        meme.reporting,
        report_images=2_500,
        checkpoint_images=max(images // 4 // 64 * 64, 64),
        held_out_images=2_048,
    )
    sampler = Sampler(num_steps=18, estimate="two_step")
    return dataclasses.replace(
        meme, network=network, experts=None, sampler=sampler, training=training, reporting=reporting
    )


class SupernetTask(Task):
    """Training a supernet; what is saved is a pipeline of its experts."""

    def __init__(self, recipe: DenoisingRecipe) -> None:
        network, experts = recipe.network, meme_fashion_mnist().experts
        assert isinstance(network, IUNetConfig)
        assert experts is not None
        self.boundaries, self.recipe = experts.boundaries, recipe
        where = recipe.data, network.resolution, network.channels
        self.data, self.held_out = open_data(*where), held_out(*where)
        torch.manual_seed(recipe.training.seed)
        classes = self.data.num_classes
        config = dataclasses.replace(network, num_classes=classes)
        supernet = Supernet(config, experts.count).to_fast_layout()
        self.model = NetworkDenoiser(supernet, recipe.preconditioning)
        self.objective = DenoisingObjective(
            recipe.schedule, num_classes=classes, label_dropout=recipe.label_dropout
        )
        self.identity = recipe.identity() | {"supernet": list(self.boundaries)}

    def export(self, average: nn.Module, folder: Path, progress: Progress) -> None:
        networks: Any = [expert.network for expert in expert_denoisers(average)]  # type: ignore[arg-type]
        Pipeline(
            Experts(networks, self.boundaries),
            self.recipe.sampler,
            class_names=self.data.class_names,
            data=self.recipe.data,
            training={"images seen": progress.images},
        ).write_into(folder)

    def opened(self, checkpoint: Path) -> Pipeline:
        return load_pipeline(checkpoint)


def supernet(out: Path, seed: int) -> Path:
    """The checkpoint of the supernet, trained or there already."""
    run = out / f"supernet-{seed}"
    recipe = recipe_of(meme_fashion_mnist().network, TRUNK, seed, ends=False)
    Trainer(SupernetTask(recipe), recipe).run(run)
    return find_checkpoint(run)


def ratios(out: Path, seed: int, results: Results) -> None:
    """Losses of each ratio in each interval."""
    pipe: Any = load_pipeline(supernet(out, seed))
    data = held_out("fashion-mnist", 32, 1)
    experts = meme_fashion_mnist().experts
    assert data is not None
    assert experts is not None
    for number, network in enumerate(pipe.network.experts, 1):
        denoiser = NetworkDenoiser(network, pipe.preconditioning)
        compute = partial(interval_losses, denoiser, data, experts.boundaries)
        losses = results.once(f"ratio {number}, seed {seed}", compute)
        print(f"ratio {number}", [round(mean_and_half(part)[0], 5) for part in losses], flush=True)


def trained(name: str, out: Path, seed: int) -> Pipeline:
    """The pipeline of an entry, trained in `out` or there already."""
    meme = meme_fashion_mnist()
    iunet, experts = meme.network, meme.experts
    assert isinstance(iunet, IUNetConfig)
    assert experts is not None
    small = ADMConfig(**{f.name: getattr(iunet, f.name) for f in dataclasses.fields(ADMConfig)})
    run = out / f"{name.replace(', ', '-').replace(' ', '-').lower()}-{seed}"
    single = {
        "large": (_wider(small), 65_000),
        "small": (small, 200_000),
        "iU-Net": (iunet, 213_000),
    }
    if name in single:
        recipe = recipe_of(*single[name], seed)
        Trainer.of(recipe, out=run).run(run)
        return load_pipeline(find_checkpoint(run))
    network, images, init, shapes = small, 25_000, "", "same"
    if name == "one shape":
        trunk = out / f"trunk-{seed}"
        recipe = recipe_of(small, TRUNK, seed, ends=False)
        Trainer.of(recipe, out=trunk).run(trunk)
        init = str(trunk)
    elif name == "MEME":
        network, images, init, shapes = iunet, 26_000, str(supernet(out, seed)), "published"
    else:
        images = 50_000
    recipe = dataclasses.replace(
        recipe_of(network, images, seed),
        experts=dataclasses.replace(experts, shapes=shapes),  # type: ignore[arg-type]
        init=init,
    )
    train_and_merge(recipe, run)
    return load_pipeline(run / MERGED_FOLDER)


def _wider(small: ADMConfig) -> ADMConfig:
    """Three times the multiply-adds: sqrt(3) times the widths, in whole heads."""
    head = small.head_channels
    widths = tuple(round(width * math.sqrt(3) / head) * head for width in small.widths)
    return dataclasses.replace(
        small, widths=widths, embedding_width=round(small.embedding_width * math.sqrt(3))
    )


def measured(name: str, out: Path, seed: int) -> dict[str, Any]:
    """What the tables say of an entry."""
    pipe: Any = trained(name, out, seed)
    data, experts = held_out("fashion-mnist", 32, 1), meme_fashion_mnist().experts
    assert data is not None
    assert experts is not None
    losses = interval_losses(pipe.denoiser, data, experts.boundaries)
    where = "fashion-mnist", 32, 1
    evaluation = Evaluation(classifier_of(*where), open_data(*where), data)
    pipe.to(default_device())
    distances, accuracies = [], []
    for part in range(SETS):
        seeds = range(part * SAMPLES, (part + 1) * SAMPLES)
        batches = ((batch.images, batch.class_labels) for batch in pipe.stream(seeds))
        report = evaluation(batches, {"seeds": f"{seeds.start}-{seeds.stop - 1}"})
        distances.append(report.frechet_distance)
        accuracies.append(report.class_accuracy)
    networks = list(pipe.network.experts or [pipe.network])
    return {
        "parameters": sum(p.numel() for p in networks[0].parameters()),
        "networks": len(networks),
        "multiply-adds": sum(map(multiply_adds, networks)) / len(networks),
        "images": pipe.training.get("images seen", ""),
        "losses": losses,
        "distances": distances,
        "accuracies": accuracies,
    }


def tables(results: Results) -> None:
    """The page's tables and its figure."""
    lines = ["Held-out loss of each ratio less that of ratio 1, by the expert's interval:", ""]
    lines += ["| ratio of expert | " + " | ".join(f"interval {n}" for n in range(1, 5)) + " |"]
    lines += ["|---" * 5 + "|"]
    base = results.entries.get("ratio 1, seed 0")
    rows: dict[str, list[tuple[float, float]]] = {}
    for number in range(2, 5):
        own = results.entries.get(f"ratio {number}, seed 0")
        if base is None or own is None:
            continue
        rows[f"{number}"] = [difference(a, b) for a, b in zip(own, base, strict=True)]
        lines += [
            f"| {number} | " + " | ".join(shown(*pair, 5) for pair in rows[f"{number}"]) + " |"
        ]
    lines += [
        "",
        "| | seed | loss 1 | loss 2 | loss 3 | loss 4 | Fréchet distance | class accuracy |",
    ]
    lines += ["|---" * 8 + "|"]
    for name, entry in results.entries.items():
        if "distances" not in entry:
            continue
        title, _, numbered = name.rpartition(", seed ")
        losses = " | ".join(shown(*mean_and_half(part), 5) for part in entry["losses"])
        distance = shown(*mean_and_half(entry["distances"]), 3)
        accuracy = sum(entry["accuracies"]) / SETS
        lines += [f"| {title} | {numbered} | {losses} | {distance} | {accuracy:.1%} |"]
    less = []
    for first, second in (("MEME", "one shape"), ("MEME", "large"), ("one shape", "small")):
        for seed in range(3):
            own, other = (results.entries.get(f"{n}, seed {seed}") for n in (first, second))
            if own is not None and other is not None:
                less += [_less(f"{first} less {second} | {seed}", own, other)]
    if less:
        lines += ["", "Paired differences, on the same images, noise and seeds:", ""]
        lines += ["| | seed | loss 1 | loss 2 | loss 3 | loss 4 | Fréchet distance |"]
        lines += ["|---" * 7 + "|", *less]
    write_page("experts", "Experts on Fashion-MNIST", lines)
    if rows:
        figure(rows)


def _less(name: str, own: dict[str, Any], other: dict[str, Any]) -> str:
    pairs = zip(own["losses"], other["losses"], strict=True)
    losses = " | ".join(shown(*difference(a, b), 5) for a, b in pairs)
    distance = shown(*difference(own["distances"], other["distances"]), 3)
    return f"| {name} | {losses} | {distance} |"


def figure(rows: dict[str, list[tuple[float, float]]]) -> None:
    """The losses of the ratios less that of the first, by interval."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(figsize=(6, 3.5))
    axes.axhline(0, color="0.7", linewidth=1)
    for place, (name, pairs) in enumerate(rows.items()):
        at = [n + 0.12 * (place - 1) for n in range(1, len(pairs) + 1)]
        means, halves = zip(*pairs, strict=True)
        axes.errorbar(at, means, halves, marker="o", linestyle="", label=f"ratio {name}", capsize=3)
    axes.set_xticks(range(1, 5), ["1\n(image)", "2", "3", "4\n(noise)"])
    axes.set_xlabel("expert's interval of noise levels")
    axes.set_ylabel("held-out loss less that of ratio 1")
    axes.legend(frameon=False)
    fig.tight_layout()
    fig.savefig(DOCS / "images" / "experts.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("ratios", "models", "tables"))
    parser.add_argument("--out", type=Path, default=Path("runs/experts-study"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=ENTRIES)
    options = parser.parse_args()
    results = Results("experts")
    if options.part == "ratios":
        ratios(options.out, options.seed, results)
    if options.part == "models":
        for name in ENTRIES if options.only is None else (options.only,):
            compute = partial(measured, name, options.out, options.seed)
            results.once(f"{name}, seed {options.seed}", compute)
    tables(results)


if __name__ == "__main__":
    run_study(main)
