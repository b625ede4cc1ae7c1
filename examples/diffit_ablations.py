"""DiffiT's ablations on a small budget: where and how the time enters, the window, the ladder.

    python examples/diffit_ablations.py --out runs/ablations

trains every variant on the digits, from the same seed on the same images and noise, and writes one
table: table.md and table.json. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from overtone import load_pipeline, open_data, storage
from overtone.metrics import Evaluation
from overtone.networks import DiffiTConfig
from overtone.precision import default_device
from overtone.runs import find_checkpoint, read_log
from overtone.training.classifier import classifier_of
from overtone.training.loop import Trainer
from overtone.training.recipes.diffit import diffit_digits

# Name, settings, and the paper's FID on CIFAR-10 (arXiv 2312.02139, its ablation tables).
VARIANTS: list[tuple[str, dict[str, Any], float | None]] = [
    ("DiffiT: time in queries, keys and values (TMSA)", {}, 1.95),
    ("time as a token attended to separately", {"time_in": "separate"}, 2.28),
    ("time in the MLP", {"time_in": "mlp"}, 3.81),
    ("time in the position bias", {"time_in": "bias"}, 3.97),
    ("no time", {"time_in": "none"}, None),
    ("Fourier time embedding", {"time_embedding": "fourier"}, 2.02),
    ("window 2 instead of 4", {"window": 2}, None),
    (
        "ladder 1: plain ViT, aggregation decoder",
        {"encoder": "vit", "decoder": "aggregation"},
        5.34,
    ),
    (
        "ladder 2: multi-resolution encoder",
        {"encoder": "multi_resolution", "decoder": "aggregation"},
        4.64,
    ),
    (
        "ladder 3: and multi-resolution decoder",
        {"encoder": "multi_resolution", "decoder": "multi_resolution"},
        3.71,
    ),
    ("ladder 4: DiffiT encoder", {"decoder": "multi_resolution"}, 2.27),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--images", type=int, default=60_000, help="training images a variant")
    parser.add_argument("--samples", type=int, default=500, help="images evaluated a variant")
    options = parser.parse_args()

    data = open_data("builtin:digits", 8, 1)
    held_out = open_data("builtin:digits", 8, 1, split="test")
    evaluation = Evaluation(classifier_of("builtin:digits", 8, 1), data, held_out)
    rows = []
    for name, changes, published in VARIANTS:
        # A result of another budget is another result.
        budget = f"{options.images}-{options.samples}"
        folder = options.out / budget / "-".join(str(v) for v in changes.values() or ["diffit"])
        result = folder / "result.json"
        if not result.exists():
            storage.write_json(result, study(changes, folder, evaluation, options))
        row = {"variant": name, "published_fid": published} | storage.read_json(result)
        rows.append(row)
        print(json.dumps(row), flush=True)
    storage.write_json(options.out / "table.json", rows)
    with storage.new_file(options.out / "table.md") as file:
        file.write_text(table(rows))
    print(table(rows))


def study(
    changes: dict[str, Any], folder: Path, evaluation: Evaluation, options: argparse.Namespace
) -> dict[str, Any]:
    """Train one variant and score it."""
    recipe = diffit_digits()
    assert isinstance(recipe.network, DiffiTConfig)
    # Unconditional, as in the paper: where the time can't enter, the class can't either.
    recipe = dataclasses.replace(
        recipe,
        network=dataclasses.replace(recipe.network, **changes),
        class_conditional=False,
        label_dropout=0.0,
        training=dataclasses.replace(
            recipe.training,
            total_images=options.images,
            lr_rampdown_images=options.images // 2,
        ),
        reporting=dataclasses.replace(recipe.reporting, checkpoint_images=options.images),
    )
    run = folder / "run"
    Trainer.of(recipe).run(run)
    log = read_log(run)
    pipe = load_pipeline(find_checkpoint(run)).to(default_device())
    batches = ((b.images, None) for b in pipe.stream(range(options.samples), batch_size=250))
    report = evaluation(batches, {"seeds": options.samples})
    return {
        "parameters": pipe.network.num_parameters,
        "frechet_distance": report.frechet_distance,
        "precision": report.precision,
        "recall": report.recall,
        "held_out_loss": next(e["held_out_loss"] for e in log[::-1] if "held_out_loss" in e),
        "images_per_second": max(e.get("images_per_second", 0.0) for e in log),
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| variant | parameters | held-out loss | Fréchet distance | precision | recall"
        " | paper's FID (CIFAR-10) |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['variant']} | {r['parameters'] / 1e6:.2f} M | {r['held_out_loss']:.4f}"
        f" | {r['frechet_distance']:.3f} | {r['precision']:.2f} | {r['recall']:.2f}"
        f" | {r['published_fid'] or '-'} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
