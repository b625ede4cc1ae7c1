"""Does the time in the attention pay? DiffiT's claim (arXiv 2312.02139), asked on digits and on
Fashion-MNIST.

    python examples/studies/attention.py digits                 14 variants, 5 seeds, 60,000 images
    python examples/studies/attention.py fashion                5 variants, 2 seeds, 20,000 images
    python examples/studies/attention.py tables

trains each variant from each seed, without classes as in the paper, and measures the held-out loss
in five intervals of noise levels on the same images and noise. Runs of one seed begin from the same
random numbers and see the same images and noise, so that variants are compared within seeds: the
tables have the mean difference from TMSA over five seeds and its 95 % interval (Student's t), or,
of fewer seeds, the difference of each and its interval over the held-out images. Results are in
docs/studies/attention.json, tables in docs/studies/attention.md; what is there is not computed
again.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

from study import Results, difference, interval_losses, mean_and_half, run_study, shown, write_page

from overtone import load_pipeline
from overtone.data import held_out
from overtone.networks import DiffiTConfig, SongConfig
from overtone.runs import find_checkpoint
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.loop import Trainer
from overtone.training.recipes.diffit import diffit_digits, diffit_fashion_mnist

BOUNDARIES = (0.05, 0.2, 1.0, 5.0)
"""between the intervals that losses are measured in"""
SONG = SongConfig(
    resolution=8, channels=1, widths=(64, 64), stem_width=64, num_cells=1, heads=4,
    attention_resolutions=(8, 4), frequencies=64, embedding_width=128, dropout=0.0,
)  # fmt: skip
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


@dataclass(frozen=True)
class Case:
    """What variants are trained on, how long, from which seeds, and by what batch."""

    recipe: Callable[[], DenoisingRecipe]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    images: int
    batch: int


CASES = {
    "digits": Case(diffit_digits, tuple(VARIANTS), (0, 1, 2, 3, 4), 60_000, 128),
    "fashion": Case(diffit_fashion_mnist, tuple(VARIANTS)[:5], (0, 1), 20_000, 32),
}


def recipe_of(case: Case, name: str, seed: int) -> DenoisingRecipe:
    """The data's recipe with a variant's network."""
    recipe, images = case.recipe(), case.images
    network, changes, _ = VARIANTS[name]
    network = network or recipe.network
    assert isinstance(network, DiffiTConfig | SongConfig)
    training = dataclasses.replace(
        recipe.training,
        seed=seed,
        total_images=images,
        batch_size=case.batch,
        lr_rampup_images=images // 6,
        lr_rampdown_images=images // 2,
        ema_halflife_images=images // 6,
        ema_rampup_ratio=0.1,
    )
    return dataclasses.replace(
        recipe,
        network=dataclasses.replace(network, **changes),
        class_conditional=False,
        label_dropout=0.0,
        training=training,
        reporting=dataclasses.replace(
            recipe.reporting, report_images=2_500, checkpoint_images=images
        ),
    )


def measured(case: Case, name: str, seed: int, run: Path) -> dict[str, Any]:
    """The losses of a variant, trained or there already."""
    recipe = recipe_of(case, name, seed)
    Trainer.of(recipe, out=run).run(run)
    pipe = load_pipeline(find_checkpoint(run))
    data = held_out(recipe.data, pipe.resolution, pipe.channels)
    assert data is not None
    losses = interval_losses(pipe.denoiser, data, BOUNDARIES, count=10_000)
    return {"parameters": pipe.network.num_parameters, "losses": losses}


def tables(results: Results) -> None:
    """The page's tables."""
    edges = ["0.002", *(f"{b:g}" for b in BOUNDARIES), "80"]
    columns = [f"{low} to {high}" for low, high in pairwise(edges)]
    lines = []
    for data, case in CASES.items():
        if not any(name.startswith(f"{data}, ") for name in results.entries):
            continue
        lines += [f"{data}, {case.images:,} images of training, held-out loss by sigma:", ""]
        lines += [f"| | parameters | {' | '.join(columns)} | mean | paper's FID (CIFAR-10) |"]
        lines += ["|---" * 9 + "|", *rows(results, data, case), ""]
    write_page("attention", "Attention and time: all variants", lines)


def rows(results: Results, data: str, case: Case) -> Iterator[str]:
    """The rows of the variants that are there, less what each is compared with."""
    for name in case.variants:
        against = AGAINST.get(name, "TMSA")
        own, other = (
            [entry for seed in case.seeds if (entry := results.entries.get(key(data, n, seed)))]
            for n in (name, against)
        )
        if len(own) < len(case.seeds) or (against and len(other) < len(own)):
            continue
        cells = map(told, by_interval(own), by_interval(other) if against else repeat(None))
        title = f"{name} less {against}" if against else name
        millions = own[0]["parameters"] / 1e6
        published = VARIANTS[name][2] or ""
        yield f"| {title} | {millions:.2f} M | {' | '.join(cells)} | {published} |"


def key(data: str, name: str, seed: int) -> str:
    return f"{data}, {name}, seed {seed}"


def by_interval(entries: Sequence[dict[str, Any]]) -> Iterator[tuple[list[float], ...]]:
    """The seeds' means of batches in each interval of noise levels, and those of all together."""
    losses = [entry["losses"] for entry in entries]
    means = ([statistics.mean(part) for part in zip(*own, strict=True)] for own in losses)
    yield from zip(*losses, strict=True)
    yield tuple(means)


def told(own: Sequence[Any], other: Sequence[Any] | None = None) -> str:
    """The mean over five seeds with its interval, or each seed's own; from means of batches."""
    if len(own) < 5:
        pairs = zip(own, other, strict=True) if other else ((values, None) for values in own)
        return ", ".join(shown(*(difference(a, b) if b else mean_and_half(a))) for a, b in pairs)
    means = [statistics.mean(values) for values in own]
    if other is None:
        return shown(*mean_and_half(means))
    return shown(*difference(means, [statistics.mean(values) for values in other]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=(*CASES, "tables"))
    parser.add_argument("--seeds", type=int, nargs="*", help="the seeds to train from now")
    parser.add_argument("--out", type=Path, default=Path("runs/attention-study"))
    options = parser.parse_args()
    results = Results("attention")
    if options.part in CASES:
        case = CASES[options.part]
        for seed in options.seeds or case.seeds:
            for name in case.variants:
                plain = "".join(c if c.isalnum() else "-" for c in name.lower())
                run = options.out / options.part / f"{plain}-{seed}"
                compute = partial(measured, case, name, seed, run)
                results.once(key(options.part, name, seed), compute)
    tables(results)


if __name__ == "__main__":
    run_study(main)
