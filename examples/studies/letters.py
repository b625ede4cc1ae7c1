"""What decides how good a relay's images are: tables from two trained stages.

    overtone train relay-glyphs-16
    overtone train relay-glyphs
    overtone train relay-glyphs --process.block-scale 0 --out runs/relay-glyphs-white
    python examples/studies/cascade.py --out runs/cascade-glyphs
    python examples/studies/letters.py runs/relay-glyphs --white runs/relay-glyphs-white \
        --cascade runs/cascade-glyphs --out study

writes study.json, entry by entry (what it has already is not computed again), and study.md. All
entries share seeds, classes and first-stage images, but for the split of evaluations.

    forms    the four ways to form the estimate, at 4 to 32 evaluations of the second stage
    eta      noise drawn anew, 0 to 0.3
    split    evaluations divided between the stages (the paper's figure 5)
    blocks   block noise against white noise alone
    cascade  a second stage that starts from noise, the small image beside its input
    bicubic  the first stage's images, enlarged
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from cascade import NETWORK, CascadeDenoiser, enlarged

from overtone import ADMUNet, open_data, storage
from overtone.data import held_out, to_pixels
from overtone.metrics import Evaluation
from overtone.pipelines import Pipeline
from overtone.pipelines.load import load_pipeline
from overtone.precision import autocast, default_device
from overtone.processes import GaussianProcess
from overtone.runs import find_checkpoint
from overtone.samplers import Sampler
from overtone.training.classifier import classifier_of

BATCH = 52


class Study:
    """Reports by name, each computed once and kept in a file."""

    def __init__(self, pipe: Pipeline, samples: int, file: Path) -> None:
        self.pipe, self.samples, self.file = pipe, samples, file
        self.entries: dict[str, dict[str, Any]] = storage.read_json(file) if file.exists() else {}
        self.labels = [seed % pipe.num_classes for seed in range(samples)]
        size = pipe.resolution, pipe.channels
        self.evaluation = Evaluation(
            classifier_of(pipe.data, *size), open_data(pipe.data, *size), held_out(pipe.data, *size)
        )

    def report(self, name: str, batches: Callable[[], Iterator[Any]]) -> None:
        if name in self.entries:
            return
        report = self.evaluation(batches(), {"samples": self.samples})
        kept = ("frechet_distance", "class_accuracy", "precision", "recall")
        self.entries[name] = {key: getattr(report, key) for key in kept}
        storage.write_json(self.file, self.entries)
        print(name, self.entries[name], flush=True)

    def relay(self, name: str, pipe: Pipeline, **changes: Any) -> None:
        """A relay with changes to its second stage's sampler."""
        sampler, first = pipe.sampler, pipe.first
        assert isinstance(sampler, Sampler)
        pipe.sampler = dataclasses.replace(sampler, **changes)
        self.report(
            name,
            lambda: (
                (batch.images, batch.class_labels)
                for batch in pipe.stream(range(self.samples), self.labels, batch_size=BATCH)
            ),
        )
        pipe.sampler, pipe.first = sampler, first

    def bicubic(self) -> Iterator[Any]:
        """The first stage's images, enlarged."""
        for batch in self.pipe.first.stream(range(self.samples), batch_size=BATCH):
            small = batch.images.float() / 127.5 - 1
            large = F.interpolate(small, scale_factor=self.pipe.process.upscale, mode="bicubic")
            yield to_pixels(large.clamp(-1, 1)), batch.class_labels

    def cascade(self, denoiser: Any, low: torch.Tensor, steps: int) -> Iterator[Any]:
        """A cascade's images, from the same small ones and as many evaluations."""
        device, patch = default_device(), self.pipe.process.upscale
        sampler = Sampler(num_steps=steps, estimate="two_step")
        for at in range(0, self.samples, BATCH):
            seeds = range(at, min(at + BATCH, self.samples))
            beside = enlarged(low[at : at + BATCH], patch).to(device)
            labels = torch.tensor([seed % denoiser.num_classes for seed in seeds]).to(device)
            source, process = self.pipe.start.source(seeds, self.pipe.resolution), GaussianProcess()
            noise = sampler.sigma_start * process.noise(beside, source)
            start = torch.cat((noise, beside), dim=1)
            with torch.no_grad(), autocast("auto", device):
                out = sampler(denoiser, process, start, source, labels)
            yield to_pixels(out.chunk(2, dim=1)[0].float()).cpu(), labels.cpu()


def kept_images(pipe: Pipeline, samples: int) -> torch.Tensor:
    """The first stage's images, so that they are not made again for each entry."""
    parts = []
    for at in range(0, samples, BATCH):
        seeds = list(range(at, min(at + BATCH, samples)))
        for step in pipe.first.path(seeds):
            x = step.x
        parts.append(x.cpu())
    return torch.cat(parts)


def table(entries: dict[str, dict[str, Any]]) -> str:
    rows = ["| | Fréchet distance | class accuracy | precision | recall |", "|---|---|---|---|---|"]
    for name, e in entries.items():
        rows.append(
            f"| {name} | {e['frechet_distance']:.3f} | {e['class_accuracy']:.1%}"
            f" | {e['precision']:.2f} | {e['recall']:.2f} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--white", type=Path, help="a second stage trained without block noise")
    parser.add_argument("--cascade", type=Path, help="a run of studies/cascade.py")
    parser.add_argument("--samples", type=int, default=520)
    parser.add_argument("--out", type=Path, default=Path("study"))
    options = parser.parse_args()

    pipe: Any = load_pipeline(str(options.run))
    study = Study(pipe, options.samples, options.out.with_suffix(".json"))
    first = pipe.first
    study.report("first stage, bicubic", study.bicubic)
    low = kept_images(pipe, options.samples)
    pipe.first = low
    for estimate in ("single", "averaged_slopes", "averaged_estimates", "two_step"):
        for evaluations in (4, 8, 16, 32):
            # Forms of two evaluations a step need one for the last.
            two = estimate.startswith("averaged")
            steps = evaluations // 2 + 1 if two else evaluations
            name = f"{estimate}, {2 * steps - 1 if two else steps} evaluations"
            study.relay(name, pipe, estimate=estimate, num_steps=steps)
    for eta in (0.0, 0.1, 0.2, 0.3):
        for estimate in ("two_step", "averaged_slopes"):
            steps = 16 if estimate == "two_step" else 9
            name = f"eta {eta}, {estimate}, {steps if estimate == 'two_step' else 2 * steps - 1}"
            study.relay(f"{name} evaluations", pipe, estimate=estimate, num_steps=steps, eta=eta)
    for total in (24, 48):
        for second in (4, 8, 16):
            sampler = first.sampler
            first.sampler = dataclasses.replace(
                sampler, num_steps=total - second, estimate="two_step"
            )
            pipe.first = first
            study.relay(f"{total - second} + {second} evaluations", pipe, num_steps=second)
            first.sampler = sampler
    pipe.first = low
    if options.white is not None:
        white: Any = load_pipeline(str(options.white))
        white.first = low
        study.relay("trained without block noise", white)
        study.relay("trained with block noise", pipe)
    if options.cascade is not None:
        checkpoint = find_checkpoint(options.cascade)
        network = ADMUNet.from_pretrained(checkpoint / NETWORK).eval().to_fast_layout()
        denoiser = CascadeDenoiser(network).to(default_device())
        for steps in (8, 16, 32):
            study.report(
                f"cascade, {steps} evaluations", partial(study.cascade, denoiser, low, steps)
            )
    options.out.with_suffix(".md").write_text(table(study.entries))


if __name__ == "__main__":
    main()
