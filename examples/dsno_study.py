"""What of DSNO matters, in a table: the paper's ablations, on a small model.

    python examples/dsno_study.py --teacher runs/digits --out runs/dsno-study

collects one set of trajectories with all states of a ten-step solver, and trains an operator for
each entry on the states that it needs, all with the same number of trajectories seen. The table
has, for 500 new seeds: the Fréchet distance, the share that a classifier recognises, and the
correlation of the operator's images with those of the teacher's own 18 steps for the same noise,
each class's mean subtracted; the teacher itself stands in the first line. Results are in a folder
named by what was asked for; an operator that was trained or measured is not again; Ctrl-C is safe.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from overtone import load_pipeline, open_data, storage
from overtone.data import held_out
from overtone.data.shards import TEST_FOLDER
from overtone.data.trajectories import (
    INDEX_FILE,
    TrajectoriesIndex,
    TrajectoryData,
    checksums,
    shards_of,
)
from overtone.metrics import Evaluation
from overtone.precision import default_device
from overtone.runs import find_checkpoint
from overtone.training.classifier import classifier_of
from overtone.training.collect import collect, index_of
from overtone.training.configs.distillation import DistillationRecipe
from overtone.training.loop import Trainer
from overtone.training.recipes.dsno import dsno_digits
from overtone.training.teacher import Teacher, open_teacher

STEPS, SEEDS = 10, range(500)
ENTRIES: dict[str, dict[str, Any]] = {
    "M = 4, quad, J = 2, weight alpha / sigma": {},
    "uniform weight": {"weighting": "uniform"},
    "uniform times": {"spacing": "uniform"},
    "M = 1": {"num_times": 1, "modes": 1},
    "M = 2": {"num_times": 2},
    "M = 8": {"num_times": 8},
    "J = 1": {"modes": 1},
    "J = 3": {"modes": 3},
    "M = 8, J = 4": {"num_times": 8, "modes": 4},
}


def subset(whole: Path, folder: Path, index: TrajectoriesIndex) -> None:
    """The trajectories in `whole`, of which only the states at the noise levels of `index`."""
    if (folder / INDEX_FILE).exists():
        return
    data = TrajectoryData(whole)
    kept = [data.index.sigmas.index(sigma) for sigma in index.sigmas]
    index = dataclasses.replace(data.index, sigmas=index.sigmas)
    shards = shards_of(folder, index)
    for number in range(len(shards)):
        states, labels = data.fetch(shards.rows(number))
        states = states[:, kept].contiguous()
        shards.write(
            number, {"states": states, "labels": labels, "checksums": checksums(states, labels)}
        )
    storage.write_json(folder / INDEX_FILE, dataclasses.asdict(index))


def correlation(made: torch.Tensor, wanted: torch.Tensor, classes: torch.Tensor) -> float:
    """Of images for the same noise, each class's mean subtracted."""
    made, wanted = made.clone().float(), wanted.clone().float()
    for label in classes.unique():
        for images in (made, wanted):
            images[classes == label] -= images[classes == label].mean(0)
    return float(torch.corrcoef(torch.stack((made.flatten(), wanted.flatten())))[0, 1])


def measured(pipe: Any, evaluation: Evaluation, wanted: Any, **arguments: Any) -> dict[str, Any]:
    """What the table says of a pipeline, and its images."""
    pipe.to(default_device())
    began = time.perf_counter()
    batches = list(pipe.stream(SEEDS, **arguments))
    seconds = time.perf_counter() - began
    report = evaluation(((b.images, b.class_labels) for b in batches), {"seeds": "0-499"})
    images = torch.cat([b.images for b in batches])
    classes = torch.cat([b.class_labels for b in batches])
    return {
        "images": images,
        "frechet_distance": report.frechet_distance,
        "class_accuracy": report.class_accuracy,
        "images_per_second": len(SEEDS) / seconds,
        "correlation": 1.0 if wanted is None else correlation(images, wanted, classes),
    }


def trained(recipe: DistillationRecipe, teacher: Teacher, whole: Path, out: Path) -> Any:
    """The operator of an entry, trained in `out` or there already."""
    folder = out / "trajectories"
    for held in (True, False):
        index = index_of(recipe, teacher, held_out=held)
        part = TEST_FOLDER if held else "."
        subset(whole / part, folder / part, index)
    trainer = Trainer.of(recipe, teacher=teacher, folder=folder)
    trainer.run(out / "run")
    return load_pipeline(find_checkpoint(out / "run"))


def table(found: dict[str, dict[str, Any]]) -> str:
    rows = [
        "| | Fréchet distance | class accuracy | correlation | images/s |",
        "|---|---|---|---|---|",
    ]
    for name, entry in found.items():
        rows.append(
            f"| {name} | {entry['frechet_distance']:.4f} | {entry['class_accuracy']:.1%} |"
            f" {entry['correlation']:.3f} | {entry['images_per_second']:.0f} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", default="runs/digits")
    parser.add_argument("--images", type=int, default=50_000, help="trajectories seen by each")
    parser.add_argument("--count", type=int, default=20_000, help="trajectories collected")
    parser.add_argument("--out", type=Path, default=Path("runs/dsno-study"))
    options = parser.parse_args()
    usual = dsno_digits()
    training = dataclasses.replace(
        usual.training,
        total_images=options.images,
        lr_rampdown_images=options.images // 2,
    )
    usual = dataclasses.replace(
        usual, training=training, count=options.count, steps=STEPS, num_times=4
    )
    scale = usual.guidance_scale
    teacher = open_teacher(options.teacher, usual.solver, STEPS, scale)
    whole = options.out / "trajectories"
    collect(dataclasses.replace(usual, num_times=STEPS), teacher, whole)
    # What another budget gave is another study.
    folder = options.out / f"{options.images}-{options.count}"
    of = ("builtin:digits", 8, 1)
    evaluation = Evaluation(classifier_of(*of), open_data(*of), held_out(*of))
    file = folder / "study.json"
    found: dict[str, Any] = storage.read_json(file) if file.exists() else {}
    solved = measured(load_pipeline(options.teacher), evaluation, None, guidance_scale=scale)
    wanted = solved.pop("images")
    found = {"teacher, 18 steps": solved} | found
    for name, changes in ENTRIES.items():
        if name in found:
            continue
        recipe = dataclasses.replace(usual, **changes)
        slug = "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")
        pipe = trained(recipe, teacher, whole, folder / slug)
        found[name] = measured(pipe, evaluation, wanted)
        del found[name]["images"]
        storage.write_json(file, found)
        print(table({name: found[name]}), flush=True)
    with storage.new_file(folder / "study.md") as text:
        text.write_text(table(found))
    print((folder / "study.md").read_text())


if __name__ == "__main__":
    main()
