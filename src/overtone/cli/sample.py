"""`overtone sample DIR`: images from a trained model."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import tyro

from overtone.cli.options import parse
from overtone.errors import OvertoneError, unknown
from overtone.launch import processes
from overtone.pipelines import ImagePipeline, RelayPipeline
from overtone.pipelines.base import SampleBatch
from overtone.pipelines.relay import FINISHES, finished

GRID_LIMIT = 1024


@dataclass(frozen=True)
class Sampling:
    """What is asked of a pipeline; shared by `sample` and `evaluate`."""

    seeds: str = "0-63"
    """like 0-63 or 3,5,8-12: one image each"""
    classes: tuple[str, ...] = ()
    """class names or numbers, taken in turn by the seeds; none: seed k gets class k mod classes"""
    guidance_scale: float | None = None
    """classifier-free guidance; 1: none; the scale saved with the model if left out"""
    guidance_interval: tuple[float, float] | None = None
    """lowest and highest sigma at which guidance acts"""
    guide: str | None = None
    """a weaker model to guide with (autoguidance), instead of the model asked for no class"""
    steps: int | None = None
    """noise levels, instead of those saved with the model"""
    scheduler: str | None = None
    """diffusers' scheduler instead of the sampler saved with the model, 50 steps if --steps says
    nothing: DDIMScheduler, DPMSolverMultistepScheduler, ... (for models of discrete steps)"""
    vae: str | None = None
    """what decodes the latents of a model that was saved without a VAE"""
    scaling_factor: float | None = None
    """of that VAE, where its config.json has none"""
    first: str | None = None
    """what a relay's second stage goes on from: a model, a run, or images (folder, zip, hf:, ...),
    of which seed k continues image k, modulo their number"""
    finish: str | None = None
    """change colours as the published generators of relay diffusion do before they save an image:
    relay-imagenet (brightness), relay-celebahq (contrast, brightness, colour)"""
    resident: int | None = None
    """of a model of experts: at most so many on the device at a time; all, if left out"""
    compile: bool = False
    """torch.compile the network first; pays for many images on a GPU"""
    batch_size: int = 64
    """images at a time"""
    checkpoint: str = "last"
    """of a run's directory: last or best"""

    def open(self, model: str) -> ImagePipeline:
        """The pipeline, where it runs fastest, with the sampler and the VAE asked for."""
        from overtone.denoisers import VPSettings
        from overtone.samplers import SchedulerSampler, scheduler_of

        pipe = open_model(model, self.checkpoint, self.resident)
        if self.vae is not None:
            if pipe.image_resolution is None:
                raise OvertoneError(f"--vae: {model} makes pixels, which no VAE has to decode.")
            from overtone.training.vae import open_vae

            pipe.vae = open_vae(self.vae, self.scaling_factor)
        if self.first is not None:
            if not isinstance(pipe, RelayPipeline):
                raise OvertoneError(f"--first: {model} begins with noise, not with images.")
            pipe.first = self.first if is_images(self.first) else open_model(self.first)
        if self.scheduler is not None:
            own = pipe.denoiser_settings
            if not isinstance(own, VPSettings):
                raise OvertoneError(
                    f"--scheduler is for models of discrete steps, and {model} has"
                    f" {own.kind}: it has a sampler of its own (--steps)."
                )
            learned = getattr(pipe.network.config, "learned_variance", False)
            scheduler = scheduler_of(
                self.scheduler, own.schedule, own.prediction, learned_variance=learned
            )
            pipe.sampler = SchedulerSampler(scheduler)
        return pipe.compile() if self.compile else pipe

    def stream(self, pipe: ImagePipeline) -> Iterable[SampleBatch]:
        """The batches of this process's share, with progress in a terminal."""
        from rich.console import Console
        from rich.progress import track

        if self.batch_size < 1:
            raise OvertoneError(f"--batch-size is at least 1, not {self.batch_size}.")
        if self.finish not in (None, *FINISHES):
            raise unknown("finish", str(self.finish), FINISHES)
        seeds = parse_seeds(self.seeds)
        labels = [class_number(pipe, name) for name in self.classes]
        among = processes()
        if len(seeds) < among.count:
            raise OvertoneError(f"{len(seeds)} seeds are too few for {among.count} processes.")
        mine = among.share(range(len(seeds)))
        asked = [labels[i % len(labels)] for i in mine] if labels else None
        seeds = [seeds[i] for i in mine]
        guide = open_model(self.guide) if self.guide else None
        batches = pipe.stream(
            seeds,
            asked,
            self.guidance_scale,
            self.guidance_interval,
            self.steps,
            self.batch_size,
            guide,
        )
        if self.finish is not None:
            batches = map(partial(_finished, self.finish), batches)
        console = Console(stderr=True)
        total = -(-len(seeds) // self.batch_size)
        shown = console.is_terminal and total > 1 and among.is_main
        return track(batches, "sampling", total, disable=not shown, console=console)


@dataclass(frozen=True)
class Options:
    model: tyro.conf.Positional[str]
    """a saved pipeline, a run's directory, or a repository of the Hub"""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")]
    out: Path = Path("samples")
    """FILE.png for a grid; or a directory for single images, and a grid in DIRECTORY.png"""
    columns: int | None = None
    """of the grid; a class each where there are up to 16, else 8, if left out"""


def main(arguments: Sequence[str]) -> None:
    options = parse(Options, "sample", __doc__, arguments)
    pipe = options.sampling.open(options.model)
    import torch

    from overtone import storage
    from overtone.data.files import SUFFIXES
    from overtone.pipelines.base import grid, to_pil

    suffix = options.out.suffix.lower()
    if suffix in SUFFIXES - {".png"}:
        raise OvertoneError(f"--out is a .png file or a directory, not {options.out}.")
    if options.columns is not None and options.columns < 1:
        raise OvertoneError(f"--columns is at least 1, not {options.columns}.")
    single = suffix != ".png"
    among = processes()
    wanted = {f"{seed:06d}.png" for seed in parse_seeds(options.sampling.seeds)}
    if single and options.out.is_dir():
        storage.sweep(options.out, days=1)
        there = {f.name for f in options.out.iterdir()}
        strangers = sorted(n for n in there - wanted if not n.startswith(storage.TEMPORARY))
        if strangers:
            raise OvertoneError(
                f"{options.out} holds other files ({', '.join(strangers[:3])}): choose another"
                " --out, so that what is evaluated is what was asked for."
            )
    images, count = [], 0
    for batch in options.sampling.stream(pipe):
        if single:
            for seed, image in zip(batch.seeds, batch.images, strict=True):
                with storage.new_file(options.out / f"{seed:06d}.png") as file:
                    to_pil(image).save(file)
        # A grid shows at most this many; a directory of more is not kept in memory.
        images += [batch.images] if count < GRID_LIMIT // among.count else []
        count += len(batch.seeds)
    parts = among.gather(torch.cat(images))
    count = sum(among.gather(count))
    if not among.is_main:
        return
    # Process r holds images r, r + processes, ...: deal them out again.
    dealt = [image for row in zip_longest(*parts) for image in row if image is not None]
    sheet = torch.stack(dealt[:GRID_LIMIT])
    # Beside the directory, not in it: its images may be evaluated.
    path = options.out.with_name(f"{options.out.name}.png") if single else options.out
    columns = options.columns or (pipe.num_classes if 1 < pipe.num_classes <= 16 else 8)
    with storage.new_file(path) as file:
        grid(sheet, columns, gap=1).save(file)
    print(f"{count} images: {options.out}", file=sys.stderr)


def _finished(name: str, batch: SampleBatch) -> SampleBatch:
    return batch._replace(images=finished(batch.images, name))


def open_model(name: str, checkpoint: str = "last", resident: int | None = None) -> ImagePipeline:
    """A pipeline from a directory, a run or the Hub, where it runs fastest."""
    from overtone import precision
    from overtone.training.rundir import open_pipeline

    processes()  # which gives each its own device, where there are several
    if checkpoint not in ("last", "best"):
        raise OvertoneError(f"--checkpoint is last or best, not '{checkpoint}'.")
    return open_pipeline(name, checkpoint).to(precision.default_device(), resident=resident)


def is_images(name: str) -> bool:
    """Whether the name is that of images rather than of a model."""
    from overtone.data.files import SUFFIXES
    from overtone.data.open import NAMES

    path = Path(name)
    if name.startswith("hf:") or name in NAMES or path.is_file():
        return True
    if not path.is_dir() or any((path / own).exists() for own in ("pipeline.json", "run.json")):
        return False
    return any(f.suffix.lower() in SUFFIXES for f in path.rglob("*"))


def parse_seeds(text: str) -> list[int]:
    """'3,5,8-12' as [3, 5, 8, 9, 10, 11, 12]; refuses what is not a seed, and repetitions."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise OvertoneError(f"--seeds is like 0-63 or 3,5,8-12, not '{text}'.")
        if not int(first) <= int(last or first) < 2**32:
            raise OvertoneError(f"--seeds {text}: seeds are in 0..{2**32 - 1}, first before last.")
        seeds += range(int(first), int(last or first) + 1)
    if len(set(seeds)) < len(seeds):
        raise OvertoneError(f"--seeds {text} names a seed twice.")
    return seeds


def class_number(pipe: ImagePipeline, name: str) -> int:
    """A class by its name in the pipeline, or by its number."""
    if name in pipe.class_names:
        return pipe.class_names.index(name)
    if name.isdecimal() and (not pipe.num_classes or int(name) < pipe.num_classes):
        return int(name)
    raise unknown("class", name, pipe.class_names or map(str, range(pipe.num_classes)))
