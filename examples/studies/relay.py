"""Does a relay pay? RDM's claim (arXiv 2309.03350), asked on letters and on photographs.

    python examples/studies/relay.py letters
    python examples/studies/relay.py photos
    python examples/studies/relay.py tables
    overtone analyze snr builtin:photos --out snr.png

trains a first stage of 16 px, second stages of 64 px that go on from it (with the recipe's block
noise, with white noise alone, with more block noise; a cascade, which begins with noise and sees
the small image), and one stage of 64 px from noise, which sees as many more images as make its
training's multiply-adds equal those of two stages. `--only NAME` trains and measures one entry.

The relay is also sampled with noise drawn anew (eta, the paper's table 3), with its evaluations
divided otherwise between the stages (figure 5) and, on letters, by other forms of the estimate. The
cascade is also sampled with two and four times the evaluations. All second stages go on from the
same small images, except in the other divisions.

    letters    builtin:glyphs, by the recipes relay-glyphs-16, in 16 steps guided with 2 (each
               calls the network twice), and relay-glyphs, in 8 steps
    photos     builtin:photos, with the published noise levels and blur, without guidance, in
               16 + 16 steps, beside the photographs' held-out regions

Samplers are `two_step`, and one stage has as many multiply-adds as the relay of both. Features are
those of a classifier of the training images. Results are in docs/studies/relay-letters.json and
relay-photos.json, tables beside them; what is there is not computed again.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from cascade import NETWORK, CascadeDenoiser, CascadeTask, enlarged
from study import Results, further, run_study, scored, scored_rows, write_page

from overtone import ADMUNet, load_pipeline, open_data, storage
from overtone.data import to_pixels
from overtone.metrics import Evaluation
from overtone.networks.network import multiply_adds
from overtone.precision import autocast, default_device
from overtone.processes import GaussianProcess, RelayProcess, SeededNoise
from overtone.runs import find_checkpoint
from overtone.samplers import Sampler
from overtone.training.classifier import classifier_of
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.loop import Trainer
from overtone.training.recipes.relay import relay_glyphs, relay_glyphs_16, relay_imagenet

SIZE = 64
REAL, BICUBIC, FIRST, RELAY, CASCADE, ONE = (
    "real", "first stage, bicubic", "first stage", "relay", "cascade", "one stage",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What is trained, on which images, and how it is sampled."""

    data: str
    split: str
    """the images that others are compared with"""
    samples: int
    batch: int
    first: DenoisingRecipe
    second: DenoisingRecipe
    steps: tuple[int, int]
    """steps of the first stage and of the second"""
    scale: float
    """guidance of the first stage and of one stage"""
    forms: Mapping[str, tuple[int, dict[str, Any]]]
    """other ways to sample the relay: the first stage's steps, and its sampler's settings"""

    @property
    def relays(self) -> dict[str, dict[str, Any]]:
        """Second stages that are relays, by what they change of the process."""
        return {
            RELAY: {},
            "relay, white noise": {"block_scale": 0.0},
            "relay, block noise 0.5": {"block_scale": 0.5},
        }

    @property
    def cascades(self) -> dict[str, int]:
        """The ways to sample the cascade, and their evaluations."""
        steps = self.steps[1]
        return {CASCADE: steps} | {f"cascade, {n} evaluations": n for n in (2 * steps, 4 * steps)}

    @property
    def names(self) -> tuple[str, ...]:
        return REAL, BICUBIC, *self.relays, *self.cascades, ONE, *self.forms

    def recipes(self) -> dict[str, DenoisingRecipe]:
        """The recipe of each entry that is trained."""
        first, second = self.first, self.second
        small, large = (multiply_adds(recipe.network.build()) for recipe in (first, second))
        both = second.training.total_images + first.training.total_images * small / large
        told: dict[str, DenoisingRecipe] = {FIRST: first, CASCADE: second}
        for name, changes in self.relays.items():
            assert isinstance(second.process, RelayProcess)
            process = dataclasses.replace(second.process, **changes)
            told[name] = dataclasses.replace(second, process=process)
        training = dataclasses.replace(
            second.training,
            total_images=round(both / second.training.batch_size) * second.training.batch_size,
            lr_rampdown_images=round(both / 2),
        )
        told[ONE] = dataclasses.replace(
            second,
            process=GaussianProcess(),
            schedule=first.schedule,
            sampler=Sampler(),
            guidance=first.guidance,
            training=training,
        )
        return told

    def steps_alone(self) -> int:
        """The steps of one stage that take the multiply-adds of both."""
        small, large = (multiply_adds(r.network.build()) for r in (self.first, self.second))
        calls = 1 if self.scale == 1 else 2  # of a guided step
        return round(self.steps[1] / calls + self.steps[0] * small / large)


def letters() -> Case:
    first = relay_glyphs_16()
    forms: dict[str, tuple[int, dict[str, Any]]] = {
        f"relay, eta {eta}": (16, {"eta": eta}) for eta in (0.1, 0.2, 0.3)
    }
    for one, two in ((20, 4), (12, 12), (8, 16)):
        forms[f"relay, {one} guided + {two} steps"] = (one, {"num_steps": two})
    forms["relay, single"] = (16, {"estimate": "single"})
    for estimate in ("averaged_slopes", "averaged_estimates"):
        forms[f"relay, {estimate}, 9 evaluations"] = (16, {"estimate": estimate, "num_steps": 5})
    return Case(
        "builtin:glyphs", "train", 520, 52, first, dataclasses.replace(relay_glyphs(), first=""),
        (16, 8), first.guidance.scale, forms,
    )  # fmt: skip


def photos() -> Case:
    changes: dict[str, Any] = {"data": "builtin:photos", "mirror": True}
    published = relay_imagenet()
    second = dataclasses.replace(
        relay_glyphs(), first="", process=published.process, schedule=published.schedule,
        sampler=published.sampler, **changes,
    )  # fmt: skip
    first = relay_glyphs_16()
    unguided = dataclasses.replace(first.guidance, scale=1.0)
    first = dataclasses.replace(first, guidance=unguided, **changes)
    forms: dict[str, tuple[int, dict[str, Any]]] = {
        f"relay, eta {eta}": (16, {"eta": eta}) for eta in (0.1, 0.2, 0.3)
    }
    for one, two in ((28, 4), (24, 8), (8, 24)):
        forms[f"relay, {one} + {two} steps"] = (one, {"num_steps": two})
    return Case("builtin:photos", "test", 1_400, 50, first, second, (16, 16), 1.0, forms)


CASES: dict[str, Callable[[], Case]] = {"letters": letters, "photos": photos}


class Study:
    """Entries trained in a folder, and measured."""

    def __init__(self, case: Case, out: Path) -> None:
        self.case, self.out, self.recipes = case, out, case.recipes()
        data = partial(open_data, case.data, SIZE, 3)
        self.real, self.test = data(split=case.split), data(split="test")
        classifier = classifier_of(case.data, SIZE, 3)
        self.evaluation = Evaluation(classifier, self.real, self.test)
        self.classes = torch.arange(case.samples) % self.real.num_classes

    def run(self, name: str) -> Path:
        """The checkpoint of an entry, trained or there already."""
        run = self.out / "".join(c if c.isalnum() else "-" for c in name)
        recipe = self.recipes[name]
        trainer = (
            Trainer(CascadeTask(recipe), recipe) if name == CASCADE else Trainer.of(recipe, out=run)
        )
        trainer.run(run)
        return find_checkpoint(run)

    def small(self, steps: int) -> torch.Tensor:
        """The first stage's images by so many evaluations, in [-1, 1]."""
        file = self.out / f"small-{steps}-{self.case.samples}.safetensors"
        if not file.exists():
            pipe = load_pipeline(self.run(FIRST)).to(default_device())
            pipe.sampler = Sampler(steps, estimate="two_step")
            seeds = range(self.case.samples)
            parts = pipe.stream(seeds, batch_size=100, guidance_scale=self.case.scale)
            made = torch.cat([batch.unrounded.float().cpu() for batch in parts])
            with storage.new_file(file) as new:
                storage.save_tensors(new, {"images": made})
        return storage.load_tensors(file)["images"]

    def images(self, name: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """An entry's images and their classes."""
        case, batch = self.case, self.case.batch
        if name == REAL:  # others of the test split than those that models are compared with
            for at in range(case.samples, 2 * case.samples, batch):
                yield self.test.fetch(range(at, at + batch))
            return
        steps, changes = case.forms.get(name, (case.steps[0], {}))
        small = self.small(steps)
        if name == BICUBIC:
            for low, own in zip(small.split(batch), self.classes.split(batch), strict=True):
                large = F.interpolate(low, size=SIZE, mode="bicubic").clamp(-1, 1)
                yield to_pixels(large), own
            return
        if name in case.cascades:
            yield from self.cascaded(self.run(CASCADE), small, case.cascades[name])
            return
        checkpoint = self.run(RELAY if name in case.forms else name)
        pipe: Any = load_pipeline(checkpoint).to(default_device())
        scale = None
        if name == ONE:
            pipe.sampler, scale = Sampler(case.steps_alone(), estimate="two_step"), case.scale
        else:
            changes = {"num_steps": case.steps[1], "estimate": "two_step"} | changes
            pipe.first, pipe.sampler = small, dataclasses.replace(pipe.sampler, **changes)
        seeds, own = range(case.samples), self.classes.tolist()
        for made in pipe.stream(seeds, own, batch_size=batch, guidance_scale=scale):
            yield made.images, made.class_labels

    def cascaded(
        self, checkpoint: Path, small: torch.Tensor, steps: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """A cascade's images, by so many evaluations."""
        network = ADMUNet.from_pretrained(checkpoint / NETWORK).eval().to_fast_layout()
        device, denoiser = default_device(), CascadeDenoiser(network).to(default_device())
        sampler, process = Sampler(steps, estimate="two_step"), GaussianProcess()
        for at in range(0, self.case.samples, self.case.batch):
            part = slice(at, at + self.case.batch)
            beside = enlarged(small[part], SIZE // small.shape[-1]).to(device)
            source, own = SeededNoise(range(at, at + len(beside))), self.classes[part]
            noise = sampler.sigma_start * process.noise(beside, source)
            with torch.no_grad(), autocast("auto", device):
                start = torch.cat((noise, beside), dim=1)
                out = sampler(denoiser, process, start, source, own.to(device))
            yield to_pixels(out.chunk(2, dim=1)[0].float()).cpu(), own

    def measured(self, name: str) -> dict[str, Any]:
        """The scores of an entry with intervals, and what differences are computed from."""
        return scored(self.evaluation, self.images(name), name)


def table(results: Results) -> str:
    """The scores of all entries, and their differences from the relay's."""
    lines = scored_rows(results.entries, RELAY)
    relay, enlarged = (results.entries.get(name) for name in (RELAY, BICUBIC))
    if relay is not None and enlarged is not None:
        less = further(relay, enlarged, of_other=1 / 3)
        lines += ["", f"The relay's distance less a third of the first stage's, enlarged: {less}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=(*CASES, "tables"))
    parser.add_argument("--out", type=Path, help="where runs are kept; runs/relay-CASE if left out")
    parser.add_argument("--only", help="one entry")
    parser.add_argument(
        "--samples", type=int, help="images of each entry, whose results are in files of their own"
    )
    options = parser.parse_args()
    if options.samples is not None and options.samples < 1:
        parser.error(f"--samples is at least 1, not {options.samples}.")
    for name in CASES if options.case == "tables" else (options.case,):
        case, title = CASES[name](), f"relay-{name}"
        if options.samples is not None:
            case, title = (
                dataclasses.replace(case, samples=options.samples),
                f"{title}-{options.samples}",
            )
        results = Results(title)
        if options.case != "tables":
            if options.only is not None and options.only not in case.names:
                parser.error(f"--only is one of {', '.join(case.names)}.")
            study = Study(case, options.out or Path("runs") / f"relay-{name}")
            for entry in case.names if options.only is None else (options.only,):
                results.once(entry, partial(study.measured, entry))
        if results.entries:
            write_page(title, f"The relay and its baselines: {name}", [table(results)])
        else:
            print(f"{title}: there are no results yet", file=sys.stderr)


if __name__ == "__main__":
    run_study(main)
