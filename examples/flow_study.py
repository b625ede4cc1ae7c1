"""Rectified flow beside EDM: the same network, the same number of images, the same digits.

    python examples/flow_study.py --out runs/flow-study

trains `diffit-digits` and `flow-digits` (times drawn uniformly and logit-normally) and prints a
table in Markdown: the Fréchet distance and the class accuracy at 35 evaluations, and how far the
images of few evaluations are from the converged ones of the same seeds (root mean square, images in
[-1, 1]), on EDM's noise levels and on levels that are even in flow time.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overtone import FlowSchedule, Pipeline, Sampler, find_recipe, open_data, storage, train
from overtone.data import held_out
from overtone.metrics import Evaluation
from overtone.samplers import EstimateKind
from overtone.training.classifier import classifier_of

EVALUATIONS = (5, 8, 18)
CONVERGED = Sampler(256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/flow-study"))
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--images", type=int, help="training images, instead of the recipes'")
    options = parser.parse_args()
    flow: Any = find_recipe("flow-digits")
    recipes: dict[str, Any] = {
        "EDM": find_recipe("diffit-digits"),
        "flow, uniform": flow,
        "flow, logit-normal": dataclasses.replace(flow, schedule=FlowSchedule("logit_normal")),
    }
    data = "builtin:digits", 8, 1
    evaluation = Evaluation(classifier_of(*data), open_data(*data), held_out(*data))
    rows = {}
    for name, recipe in recipes.items():
        if options.images:
            training = dataclasses.replace(
                recipe.training, total_images=options.images, lr_rampdown_images=0,
                lr_rampup_images=min(recipe.training.lr_rampup_images, options.images),
            )  # fmt: skip
            recipe = dataclasses.replace(recipe, training=training)
        pipe = train(recipe, options.out / name.replace(", ", "-"))
        rows[name] = measured(pipe, evaluation, options.samples)
        storage.write_json(options.out / "table.json", rows)
    columns = list(next(iter(rows.values())))
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{value:.4g}' for value in row.values())} |")


def measured(pipe: Pipeline, evaluation: Evaluation, samples: int) -> dict[str, float]:
    """The figures of one model."""
    seeds, row = range(samples), {}
    for scale in (1.0, 1.5):
        batches = pipe.stream(seeds, guidance_scale=scale, batch_size=250)
        report = evaluation(((b.images, b.class_labels) for b in batches), {})
        row[f"distance, guidance {scale:g}"] = report.frechet_distance
        row[f"accuracy, guidance {scale:g}"] = report.class_accuracy or 0.0
    wanted = images(pipe, CONVERGED, samples)
    for count in EVALUATIONS:
        for what, sampler in solvers(count).items():
            error = images(pipe, sampler, samples) - wanted
            row[f"{what}, {count}"] = float(error.square().mean().sqrt())
    return row


def solvers(count: int) -> dict[str, Sampler]:
    """Samplers of so many evaluations."""
    top = 80 / 81  # the flow time of sigma 80, where EDM's levels begin
    times = [top * (1 - i / count) for i in range(count)]
    even = tuple(s / (1 - s) for s in times)

    def on(levels: tuple[float, ...], estimate: EstimateKind) -> Sampler:
        return Sampler(count, levels=levels, estimate=estimate)

    return {
        "Euler": on((), "euler"),
        "Euler, even": on(even, "euler"),
        "DPM-Solver++": on((), "dpmpp_2m"),
        "DPM-Solver++, even": on(even, "dpmpp_2m"),
    }


def images(pipe: Pipeline, sampler: Sampler, samples: int) -> Tensor:
    """The images of the first seeds, before they are rounded."""
    pipe.sampler = sampler
    parts = []
    for at in range(0, samples, 250):
        for step in pipe.path(range(at, min(at + 250, samples))):
            x = step.x
        parts.append(x.float().cpu())
    return torch.cat(parts)


if __name__ == "__main__":
    main()
