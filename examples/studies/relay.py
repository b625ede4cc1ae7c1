"""Does a relay pay? RDM's claim (arXiv 2309.03350), asked on photographs.

    python examples/studies/relay.py --out runs/relay-study
    python examples/studies/relay.py --tables
    overtone analyze snr builtin:photos --out snr.png

trains on builtin:photos a first stage of 16 px, second stages of 64 px that go on from it (relays
of the published noise levels and blur, with block noise, white noise alone, and more block noise; a
cascade, which begins with noise and sees the small image), and one stage of 64 px from noise, which
sees as many more images as make its training's multiply-adds equal those of two stages. `--only
NAME` trains and measures one entry.
The relay is also sampled with noise drawn anew (eta, the paper's table 3), and with its 32
evaluations divided otherwise between the stages (figure 5).

All second stages go on from the same small images, but for those divisions. Each model is sampled
with about as many multiply-adds as the relay of 16 + 16 evaluations, `two_step`, without guidance,
and scored on the features of a classifier of the photographs' training regions beside their
held-out regions. Results are in docs/studies/relay.json, tables in docs/studies/relay.md; what is
there is not computed again.
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
from cascade import NETWORK, CascadeDenoiser, CascadeTask, enlarged
from study import DOCS, Results

from overtone import ADMUNet, load_pipeline, open_data, storage
from overtone.data import to_pixels
from overtone.metrics import Evaluation
from overtone.metrics.halves import difference
from overtone.metrics.scores import measures
from overtone.networks.network import multiply_adds
from overtone.precision import autocast, default_device
from overtone.processes import GaussianProcess, RelayProcess, SeededNoise
from overtone.runs import find_checkpoint
from overtone.samplers import Sampler
from overtone.training.classifier import classifier_of
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.loop import Trainer
from overtone.training.recipes.relay import relay_glyphs, relay_glyphs_16, relay_imagenet

DATA, SIZE = "builtin:photos", 64
SAMPLES, BATCH, STEPS = 1_400, 50, 16
RELAYS = {
    "relay": {},
    "relay, white noise": {"block_scale": 0.0},
    "relay, block noise 0.5": {"block_scale": 0.5},
}
SAMPLED: dict[str, tuple[int, dict[str, Any]]] = {
    **{f"relay, eta {eta}": (STEPS, {"eta": eta}) for eta in (0.1, 0.2, 0.3)},
    **{
        f"relay, {first} + {2 * STEPS - first} evaluations": (
            first,
            {"num_steps": 2 * STEPS - first},
        )
        for first in (28, 24, 8)
    },
}
"""Other ways to sample the relay: the first stage's evaluations, and its sampler's settings."""
SCORES = ("frechet_distance", "precision", "recall", "class_accuracy")


def recipes() -> dict[str, DenoisingRecipe]:
    """The recipe of each entry that is trained."""
    first = dataclasses.replace(relay_glyphs_16(), data=DATA, mirror=True)
    published = relay_imagenet()
    second = dataclasses.replace(
        relay_glyphs(), data=DATA, mirror=True, first="", process=published.process,
        schedule=published.schedule, sampler=published.sampler,
    )  # fmt: skip
    small, large = (multiply_adds(recipe.network.build()) for recipe in (first, second))
    both = second.training.total_images + first.training.total_images * small / large
    told: dict[str, DenoisingRecipe] = {"first stage": first}
    for name, changes in RELAYS.items():
        assert isinstance(second.process, RelayProcess)
        process = dataclasses.replace(second.process, **changes)  # type: ignore[arg-type]
        told[name] = dataclasses.replace(second, process=process)
    told["cascade"] = second
    training = dataclasses.replace(
        second.training,
        total_images=round(both / second.training.batch_size) * second.training.batch_size,
        lr_rampdown_images=round(both / 2),
    )
    told["one stage"] = dataclasses.replace(
        second,
        process=GaussianProcess(),
        schedule=first.schedule,
        sampler=Sampler(),
        guidance=dataclasses.replace(first.guidance, scale=1.0),
        training=training,
    )
    return told


class Study:
    """Entries trained in a folder, and measured."""

    def __init__(self, out: Path, results: Results) -> None:
        self.out, self.results, self.recipes = out, results, recipes()
        self.real = open_data(DATA, SIZE, 3, split="test")
        self.evaluation = Evaluation(classifier_of(DATA, SIZE, 3), self.real, self.real)

    def run(self, name: str) -> Path:
        """The checkpoint of an entry, trained or there already."""
        run = self.out / "".join(c if c.isalnum() else "-" for c in name)
        recipe = self.recipes[name]
        if name == "cascade":
            Trainer(CascadeTask(recipe), recipe).run(run)
        else:
            Trainer.of(recipe, out=run).run(run)
        return find_checkpoint(run)

    def small(self, steps: int = STEPS) -> torch.Tensor:
        """The first stage's images by so many evaluations, in [-1, 1]."""
        file = self.out / f"small-{steps}.safetensors"
        if not file.exists():
            pipe = load_pipeline(self.run("first stage")).to(default_device())
            pipe.sampler = Sampler(steps, estimate="two_step")
            parts = pipe.stream(range(SAMPLES), batch_size=100, guidance_scale=1.0)
            made = torch.cat([batch.unrounded.float().cpu() for batch in parts])
            with storage.new_file(file) as new:
                storage.save_tensors(new, {"images": made})
        return storage.load_tensors(file)["images"]

    def images(self, name: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """An entry's images and their classes."""
        classes = torch.arange(SAMPLES) % self.real.num_classes
        if name == "real":  # other crops of the same regions
            for at in range(SAMPLES, 2 * SAMPLES, BATCH):
                yield self.real.fetch(range(at, at + BATCH))
            return
        trained = "relay" if name in SAMPLED else name
        steps, changes = SAMPLED.get(name, (STEPS, {}))
        small = self.small(steps)
        if name == "first stage, bicubic":
            for low, own in zip(small.split(BATCH), classes.split(BATCH), strict=True):
                large = F.interpolate(low, size=SIZE, mode="bicubic").clamp(-1, 1)
                yield to_pixels(large), own
            return
        checkpoint = self.run(trained)
        if name == "cascade":
            yield from self.cascaded(checkpoint, small, classes)
            return
        pipe: Any = load_pipeline(checkpoint).to(default_device())
        if name == "one stage":
            pipe.sampler = Sampler(self.steps_alone(), estimate="two_step")
        else:
            pipe.first, pipe.sampler = small, dataclasses.replace(pipe.sampler, **changes)
        for at in range(0, SAMPLES, BATCH):
            seeds = range(at, at + BATCH)
            for batch in pipe.stream(seeds, classes[at : at + BATCH], batch_size=BATCH):
                yield batch.images, classes[at : at + BATCH]

    def steps_alone(self) -> int:
        """The evaluations of one stage that take the multiply-adds of both."""
        small, large = (
            multiply_adds(self.recipes[name].network.build()) for name in ("first stage", "relay")
        )
        return round(STEPS * (1 + small / large))

    def cascaded(
        self, checkpoint: Path, small: torch.Tensor, classes: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """A cascade's images."""
        network = ADMUNet.from_pretrained(checkpoint / NETWORK).eval().to_fast_layout()
        device, denoiser = default_device(), CascadeDenoiser(network).to(default_device())
        sampler, process = Sampler(STEPS, estimate="two_step"), GaussianProcess()
        for at in range(0, SAMPLES, BATCH):
            beside = enlarged(small[at : at + BATCH], SIZE // small.shape[-1]).to(device)
            source = SeededNoise(range(at, at + BATCH))
            noise = sampler.sigma_start * process.noise(beside, source)
            own = classes[at : at + BATCH]
            with torch.no_grad(), autocast("auto", device):
                start = torch.cat((noise, beside), dim=1)
                out = sampler(denoiser, process, start, source, own.to(device))
            yield to_pixels(out.chunk(2, dim=1)[0].float()).cpu(), own

    def measured(self, name: str) -> dict[str, Any]:
        """The scores of an entry with intervals, and what differences are computed from."""
        report = self.evaluation(self.images(name), {"entry": name})
        scores = {
            score: [report.value(score), *(report.interval(score) or (None, None))]
            for score in SCORES
        }
        return scores | {"columns": report.columns["frechet_distance"].tolist()}


def tables(results: Results) -> None:
    """The page's table."""
    lines = ["| | Fréchet distance | less the relay's | precision | recall | class accuracy |"]
    lines += ["|---" * 6 + "|"]
    relay, biased = results.entries.get("relay"), measures()["frechet_distance"].biased
    for name, entry in results.entries.items():
        less = ""
        if relay is not None and name != "relay":
            own, other = (torch.tensor(e["columns"], dtype=torch.float64) for e in (entry, relay))
            found = difference(own, other, biased=biased)
            less = _between([found.value, *(found.interval or ())])
        value = _between(entry["frechet_distance"])
        rest = " | ".join(f"{entry[score][0]:.1%}" for score in SCORES[1:])
        lines += [f"| {name} | {value} | {less} | {rest} |"]
    file = DOCS / "studies" / "relay.md"
    file.write_text("\n".join(lines) + "\n")
    print(file.read_text())


def _between(numbers: list[float]) -> str:
    return f"{numbers[0]:.3f} ({numbers[1]:.3f} to {numbers[2]:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("real", "first stage, bicubic", *RELAYS, "cascade", "one stage", *SAMPLED)
    parser.add_argument("--out", type=Path, default=Path("runs/relay-study"))
    parser.add_argument("--only", choices=names)
    parser.add_argument("--tables", action="store_true", help="write the table of what is there")
    options = parser.parse_args()
    results = Results("relay")
    if not options.tables:
        study = Study(options.out, results)
        for name in names if options.only is None else (options.only,):
            compute: Callable[[], Any] = partial(study.measured, name)
            results.once(name, compute)
    tables(results)


if __name__ == "__main__":
    main()
