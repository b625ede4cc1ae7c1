"""Fréchet distance against images seen: every checkpoint of a run, evaluated on the same seeds.

    python examples/checkpoint_curve.py runs/diffit-fashion-mnist --out curve

writes curve.json and curve.png. Checkpoints that curve.json has already are not evaluated again; a
run keeps all of its checkpoints if it was trained with a large --keep.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from overtone import load_pipeline, open_data, storage
from overtone.analysis.plots import distance_curve
from overtone.data import held_out
from overtone.metrics import Evaluation
from overtone.precision import default_device
from overtone.runs import checkpoints_of
from overtone.training.classifier import classifier_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("curve"))
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    options = parser.parse_args()

    folders = [folder for folder in checkpoints_of(options.run) if int(folder.name)]
    first = load_pipeline(folders[0])
    name, size = first.data, (first.network.config.resolution, first.network.config.channels)
    evaluation = Evaluation(classifier_of(name, *size), open_data(name, *size),
                            held_out(name, *size))  # fmt: skip
    file = options.out.with_suffix(".json")
    known = storage.read_json(file) if file.exists() else []
    points = {point["images"]: point for point in known}
    for folder in folders:
        images = int(folder.name)
        if images in points:
            continue
        pipe = load_pipeline(folder).to(default_device())
        batches = pipe.stream(range(options.samples), guidance_scale=options.guidance_scale)
        report = evaluation(
            ((b.images, b.class_labels) for b in batches),
            {"samples": options.samples, "guidance_scale": options.guidance_scale},
        )
        points[images] = {
            "images": images,
            "frechet_distance": report.frechet_distance,
            "kernel_distance": report.kernel_distance,
            "class_accuracy": report.class_accuracy,
            "precision": report.precision,
            "recall": report.recall,
            "samples": options.samples,
            "guidance_scale": options.guidance_scale,
        }
        storage.write_json(file, [points[key] for key in sorted(points)])
        print(points[images], flush=True)
    assert evaluation.real_distance is not None
    ordered = [points[key] for key in sorted(points)]
    with storage.new_file(options.out.with_suffix(".png")) as picture:
        distance_curve(
            [p["images"] for p in ordered],
            [p["frechet_distance"] for p in ordered],
            evaluation.real_distance,
            picture,
        )


if __name__ == "__main__":
    main()
