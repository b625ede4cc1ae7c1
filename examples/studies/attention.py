"""Does the time in the attention pay? DiffiT's claim (arXiv 2312.02139), asked on digits.

    python examples/studies/attention.py --seeds 0 1 2 3 4
    python examples/studies/attention.py --tables

trains each variant from each seed for `--images` images, without classes as in the paper, and
measures the held-out loss in five intervals of noise levels on the same images and noise. Runs of
one seed begin from the same random numbers and see the same images and noise, so that variants are
compared within seeds: the tables have the mean difference from TMSA over the seeds and its 95 %
interval (Student's t). Results are in docs/studies/attention.json, tables in
docs/studies/attention.md; what is there is not computed again.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from study import DOCS, Results, interval_losses, mean_and_half, shown

from overtone import load_pipeline
from overtone.data import held_out
from overtone.networks import DiffiTConfig, SongConfig
from overtone.runs import find_checkpoint
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.loop import Trainer
from overtone.training.recipes.diffit import diffit_digits

BOUNDARIES = (0.05, 0.2, 1.0, 5.0)
"""between the intervals that losses are measured in"""
SONG = SongConfig(
    resolution=8, channels=1, widths=(64, 64), stem_width=64, num_cells=1, heads=4,
    attention_resolutions=(8, 4), frequencies=64, embedding_width=128, dropout=0.0,
)  # fmt: skip
SEEDS = range(20)
VARIANTS: dict[str, tuple[Any, dict[str, Any], float | None]] = {
    "TMSA": (None, {}, 1.95),
    "separate token": (None, {"time_in": "separate"}, 2.28),
    "MLP": (None, {"time_in": "mlp"}, 3.81),
    "position bias": (None, {"time_in": "bias"}, 3.97),
    "no time": (None, {"time_in": "none"}, None),
    "Fourier embedding": (None, {"time_embedding": "fourier"}, 2.02),
    "token width 32": (None, {"token_width": 32}, None),
    "window 2": (None, {"window": 2}, None),
    "ladder 1: ViT": (None, {"encoder": "vit", "decoder": "aggregation"}, 5.34),
    "ladder 2: multi-resolution encoder": (
        None, {"encoder": "multi_resolution", "decoder": "aggregation"}, 4.64,
    ),
    "ladder 3: and decoder": (
        None, {"encoder": "multi_resolution", "decoder": "multi_resolution"}, 3.71,
    ),
    "ladder 4: DiffiT encoder": (None, {"decoder": "multi_resolution"}, 2.27),
    "DDPM++": (SONG, {}, None),
    "DDPM++ with TMSA": (SONG, {"attention": "tmsa"}, None),
}  # fmt: skip
"""The network (DiffiT's if none), its settings, and the paper's FID on CIFAR-10."""
AGAINST = {"TMSA": "", "DDPM++": "", "DDPM++ with TMSA": "DDPM++"}
"""What a variant is compared with, where it is not TMSA; nothing for some."""


def recipe_of(name: str, images: int, seed: int) -> DenoisingRecipe:
    """The digits' recipe with a variant's network."""
    recipe = diffit_digits()
    network, changes, _ = VARIANTS[name]
    network = network or recipe.network
    assert isinstance(network, DiffiTConfig | SongConfig)
    training = dataclasses.replace(
        recipe.training, seed=seed, total_images=images, lr_rampdown_images=images // 2
    )
    return dataclasses.replace(
        recipe,
        network=dataclasses.replace(network, **changes),
        class_conditional=False,
        label_dropout=0.0,
        training=training,
        reporting=dataclasses.replace(recipe.reporting, checkpoint_images=images),
    )


def measured(name: str, images: int, seed: int, out: Path) -> dict[str, Any]:
    """The losses of a variant, trained or there already."""
    run = out / f"{images}" / f"{''.join(c if c.isalnum() else '-' for c in name.lower())}-{seed}"
    Trainer.of(recipe_of(name, images, seed), out=run).run(run)
    pipe = load_pipeline(find_checkpoint(run))
    data = held_out("builtin:digits", 8, 1)
    assert data is not None
    losses = interval_losses(pipe.denoiser, data, BOUNDARIES, count=10_000)
    return {"parameters": pipe.network.num_parameters, "losses": losses}


def tables(results: Results, images: int) -> None:
    """The page's tables."""
    edges = ["0.002", *(f"{b:g}" for b in BOUNDARIES), "80"]
    columns = [f"{low} to {high}" for low, high in pairwise(edges)]
    head = f"| | parameters | seeds | {' | '.join(columns)} | mean | paper's FID (CIFAR-10) |"
    lines = ["Held-out loss by sigma:", "", head, "|---" * 10 + "|"]
    for name, (_, _, published) in VARIANTS.items():
        against = AGAINST.get(name, "TMSA")
        found: dict[str, dict[int, Any]] = {
            n: {seed: results.entries.get(f"{n}, {images} images, seed {seed}") for seed in SEEDS}
            for n in (name, against)
            if n
        }
        seeds = [seed for seed in SEEDS if all(entries[seed] for entries in found.values())]
        if not seeds:
            continue
        own, *other = ([means_of(entries[s]) for s in seeds] for entries in found.values())
        by_interval = (list(zip(*part, strict=True)) for part in (own, *other))
        cells = [told(*values) for values in zip(*by_interval, strict=True)]
        title = f"{name} less {against}" if against else name
        millions = found[name][seeds[0]]["parameters"] / 1e6
        lines.append(
            f"| {title} | {millions:.2f} M | {len(seeds)} | {' | '.join(cells)} |"
            f" {published or ''} |"
        )
    file = DOCS / "studies" / "attention.md"
    file.write_text("\n".join(lines) + "\n")
    print(file.read_text())


def means_of(entry: dict[str, Any]) -> list[float]:
    """The loss in each interval, and the mean of all."""
    means = [statistics.mean(part) for part in entry["losses"]]
    return [*means, statistics.mean(means)]


def told(own: Sequence[float], other: Sequence[float] | None = None) -> str:
    """The mean over the seeds, or that of the differences, with its interval if there are five."""
    values = list(own) if other is None else [a - b for a, b in zip(own, other, strict=True)]
    return shown(*mean_and_half(values)) if len(values) == 5 else f"{statistics.mean(values):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/attention-study"))
    parser.add_argument("--tables", action="store_true", help="write the tables of what is there")
    options = parser.parse_args()
    results = Results("attention")
    for seed in () if options.tables else options.seeds:
        for name in VARIANTS:
            key = f"{name}, {options.images} images, seed {seed}"
            results.once(key, partial(measured, name, options.images, seed, options.out))
    tables(results, options.images)


if __name__ == "__main__":
    main()
