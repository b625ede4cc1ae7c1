"""Do relays chain? Letters of 16 px are continued at 64 px, and those at 256 px.

    overtone train relay-glyphs-16
    overtone train relay-glyphs
    overtone train relay-glyphs-256
    python examples/studies/chain.py

scores letters of 256 px by the three runs, beside the same letters enlarged from 16 and from 64 px
by bicubic interpolation, all from the same small letters. Stages take 16 guided steps, 8 and 8.
Results are in docs/studies/chain.json, the table in docs/studies/chain.md, and a picture in
docs/images/chain.png; what is there is not computed again.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from study import DOCS, Batches, Results, run_study, scored, scored_rows, write_page

from overtone import load_pipeline, open_data
from overtone.data import held_out, to_pixels
from overtone.metrics import Evaluation
from overtone.pipelines.pictures import grid
from overtone.precision import default_device
from overtone.training.classifier import classifier_of

SIZE = 256
WHERE = "builtin:glyphs", SIZE, 3
REAL, SMALL, MIDDLE, CHAIN = "real", "16 px, bicubic", "64 px, bicubic", "chain"
STEPS = 16, 8, 8
SCALE = 2.0
"""guidance of the first stage"""
BATCH = 26
MOST = 1_300
"""letters of each stage, half of those that are held out"""
SHOWN = 13
"""letters of the picture"""


class Stages:
    """The letters of the three stages from the same seeds, batch by batch."""

    def __init__(self, runs: Path) -> None:
        names = "relay-glyphs-16", "relay-glyphs", "relay-glyphs-256"
        self.pipes: list[Any] = [load_pipeline(runs / name).to(default_device()) for name in names]
        for pipe, steps in zip(self.pipes, STEPS, strict=True):
            changes = {"num_steps": steps, "estimate": "two_step"}
            pipe.sampler = dataclasses.replace(pipe.sampler, **changes)

    def batches(self, samples: int) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
        """The images of each stage in [-1, 1], and their classes."""
        for at in range(0, samples, BATCH):
            seeds = range(at, min(at + BATCH, samples))
            first, *later = self.pipes
            made = next(first.stream(seeds, batch_size=BATCH, guidance_scale=SCALE))
            stages = [made.unrounded.float()]
            for pipe in later:
                pipe.first = stages[-1]
                after = next(pipe.stream(seeds, made.class_labels.tolist(), batch_size=BATCH))
                stages.append(after.unrounded.float())
            yield [stage.cpu() for stage in stages], made.class_labels.cpu()


def enlarged(images: torch.Tensor) -> torch.Tensor:
    """Images at the size of the last stage, in [-1, 1]."""
    if images.shape[-1] == SIZE:
        return images
    return F.interpolate(images, size=SIZE, mode="bicubic").clamp(-1, 1)


def measured(runs: Path, samples: int) -> dict[str, Any]:
    """The scores of real letters and of each stage's, enlarged."""
    test = open_data(*WHERE, split="test")
    evaluation = Evaluation(classifier_of(*WHERE), open_data(*WHERE), held_out(*WHERE))
    made = list(Stages(runs).batches(samples))

    def of_stage(number: int) -> Batches:
        for stages, labels in made:
            yield to_pixels(enlarged(stages[number])), labels

    # Others of the held-out letters than those that images are compared with.
    real = (test.fetch(range(at, at + BATCH)) for at in range(samples, 2 * samples, BATCH))
    found = {REAL: scored(evaluation, real, REAL)}
    for number, name in enumerate((SMALL, MIDDLE, CHAIN)):
        found[name] = scored(evaluation, of_stage(number), name)
    picture(made[0][0])
    return found


def picture(stages: list[torch.Tensor]) -> None:
    """The letters of each stage, one row a stage."""
    letters = torch.cat([enlarged(stage[:SHOWN]) for stage in stages])
    half = F.interpolate(letters, scale_factor=0.5, mode="area")
    grid(to_pixels(half), SHOWN).save(DOCS / "images" / "chain.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--samples", type=int, default=520)
    options = parser.parse_args()
    if options.samples % BATCH or not BATCH <= options.samples <= MOST:
        parser.error(
            f"--samples is a multiple of {BATCH}, {MOST} at most, not {options.samples}: as many"
            " other held-out letters are scored beside them."
        )
    results = Results("chain")
    entries = results.once("scores", partial(measured, options.runs, options.samples))
    write_page("chain", "A chain of two relays", scored_rows(entries, CHAIN))


if __name__ == "__main__":
    run_study(main)
