"""Experts of different shapes against one network and against experts of one shape, in a table.

    python examples/meme_study.py --images 100000 --out runs/meme-study

trains on Fashion-MNIST, every entry with the same number of images seen in all, experts sharing
them:

    large          one U-Net, three times the multiply-adds
    small          one U-Net
    iU-Net         one iU-Net of the same width, its ratios between the experts'
    experts, same  four small U-Nets, each for a quarter of the sampler's steps
    MEME           four iU-Nets with the published ratios, for the same quarters

and writes study.json and study.md, in a folder named by what was asked for: parameters,
multiply-adds, seconds an image, and the Fréchet distance on five disjoint sets of seeds, with the
95 % confidence interval of its mean (Student's t, four degrees of freedom). Entries have the same
data, seeds and sampler, so that sets of the same seeds are subtracted from each other: the
difference from the large network has a narrower interval. What has been trained or evaluated is not
done again; Ctrl-C is safe.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from overtone import load_pipeline, open_data, storage
from overtone.data import held_out
from overtone.metrics import Evaluation
from overtone.networks import ADMConfig, IUNetConfig
from overtone.networks.network import multiply_adds
from overtone.precision import default_device
from overtone.runs import MERGED_FOLDER, find_checkpoint
from overtone.samplers import Sampler
from overtone.training.classifier import classifier_of
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.experts import merged_run, train_experts
from overtone.training.loop import Trainer
from overtone.training.recipes.meme import meme_fashion_mnist

Shapes = Literal["published", "same"]
SETS = 5
T_FOUR = 2.776  # 97.5 % quantile of Student's t with SETS - 1 degrees of freedom
COLUMNS = (
    "parameters",
    "multiply-adds",
    "seconds an image",
    "Fréchet distance",
    "less that of large",
    "class_accuracy",
)


def entries(images: int) -> dict[str, DenoisingRecipe]:
    """The recipes by name, each to see `images` images in all."""
    meme = meme_fashion_mnist()
    iunet, experts = meme.network, meme.experts
    assert isinstance(iunet, IUNetConfig)
    assert experts is not None
    shared = {f.name: getattr(iunet, f.name) for f in dataclasses.fields(ADMConfig)}
    small = ADMConfig(**shared)
    # Products grow with the square of the width: sqrt(3) times it, in whole heads.
    head = small.head_channels
    widths = tuple(round(width * math.sqrt(3) / head) * head for width in small.widths)
    large = dataclasses.replace(
        small, widths=widths, embedding_width=round(small.embedding_width * math.sqrt(3))
    )

    def of(network: Any, shapes: Shapes | None, total: int) -> DenoisingRecipe:
        training = dataclasses.replace(
            meme.training,
            total_images=total,
            lr_rampup_images=total // 20,
            lr_rampdown_images=total // 2,
            ema_halflife_images=total // 20,
        )
        reporting = dataclasses.replace(
            meme.reporting, report_images=max(total // 10, 1), checkpoint_images=max(total // 2, 1)
        )
        own = None if shapes is None else dataclasses.replace(experts, shapes=shapes)
        # On the same levels, with half of the evaluations.
        assert isinstance(meme.sampler, Sampler)
        sampler = dataclasses.replace(meme.sampler, estimate="two_step")
        return dataclasses.replace(
            meme,
            network=network,
            experts=own,
            sampler=sampler,
            training=training,
            reporting=reporting,
        )

    return {
        "large": of(large, None, images),
        "small": of(small, None, images),
        "iU-Net": of(iunet, None, images),
        "experts, same": of(small, "same", images // 4),
        "MEME": of(iunet, "published", images // 4),
    }


def trained(recipe: DenoisingRecipe, run: Path) -> Any:
    """The pipeline of a recipe, trained in `run` or there already."""
    if recipe.experts is None:
        Trainer.of(recipe).run(run)
        return load_pipeline(find_checkpoint(run))
    train_experts(recipe, run, started=lambda trainer, name: print(f"{run.name}: {name}"))
    if not (run / MERGED_FOLDER).is_dir():
        merged_run(run).save_pretrained(run / MERGED_FOLDER)
    return load_pipeline(run / MERGED_FOLDER)


def measured(pipe: Any, evaluation: Evaluation, samples: int) -> dict[str, Any]:
    """What the table says of a pipeline."""
    networks = getattr(pipe.network, "networks", [pipe.network])
    pipe.to(default_device())
    distances, accuracies, seconds = [], [], 0.0
    for part in range(SETS):
        seeds = range(part * samples, (part + 1) * samples)
        began = time.perf_counter()
        batches = [(batch.images, batch.class_labels) for batch in pipe.stream(seeds)]
        seconds += time.perf_counter() - began
        report = evaluation(iter(batches), {"seeds": f"{seeds.start}-{seeds.stop - 1}"})
        distances.append(report.frechet_distance)
        assert report.class_accuracy is not None
        accuracies.append(report.class_accuracy)
    each = statistics.mean(multiply_adds(network) for network in networks)
    millions = sum(p.numel() for p in networks[0].parameters()) / 1e6
    return {
        "parameters": f"{millions:.2f} M" + (f" x {len(networks)}" if len(networks) > 1 else ""),
        "multiply-adds": f"{each / 1e6:.0f} M",
        "seconds an image": round(seconds / (SETS * samples), 4),
        "distances": distances,
        "class_accuracy": statistics.mean(accuracies),
    }


def interval(values: Sequence[float]) -> str:
    """Their mean, and its 95 % confidence interval."""
    half = T_FOUR * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.3f} ± {half:.3f}"


def table(found: dict[str, dict[str, Any]]) -> str:
    large = found.get("large")
    rows = [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, entry in found.items():
        less = ""
        if large is not None and entry is not large:
            pairs = zip(entry["distances"], large["distances"], strict=True)
            less = interval([own - other for own, other in pairs])
        rows.append(
            f"| {name} | {entry['parameters']} | {entry['multiply-adds']} |"
            f" {entry['seconds an image']:.3f} | {interval(entry['distances'])} | {less} |"
            f" {entry['class_accuracy']:.1%} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000, help="seen by each entry in all")
    parser.add_argument("--samples", type=int, default=500, help="in each of the five sets")
    parser.add_argument("--out", type=Path, default=Path("runs/meme-study"))
    options = parser.parse_args()
    # What another budget gave is another study.
    folder = options.out / f"{options.images}-{options.samples}"
    recipes, file = entries(options.images), folder / "study.json"
    found: dict[str, Any] = storage.read_json(file) if file.exists() else {}
    data = recipes["small"].data
    of = (data, 32, 1)
    evaluation = Evaluation(classifier_of(*of), open_data(*of), held_out(*of))
    for name, recipe in recipes.items():
        if name in found:
            continue
        pipe = trained(recipe, folder / name.replace(", ", "-").lower())
        found[name] = measured(pipe, evaluation, options.samples)
        storage.write_json(file, found)
        print(table({name: found[name]}), flush=True)
    with storage.new_file(folder / "study.md") as text:
        text.write_text(table({name: found[name] for name in recipes}))
    print((folder / "study.md").read_text())


if __name__ == "__main__":
    main()
