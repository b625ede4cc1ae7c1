"""`overtone sample MODEL` makes images with a trained model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from overtone.cli.model import ModelOptions, check_first, open_model, saved_options
from overtone.cli.options import parse
from overtone.errors import OvertoneError, counted, unknown
from overtone.launch import processes
from overtone.leftovers import TEMPORARY, sweep
from overtone.pipelines.seeds import seeds_of
from overtone.ranges import (
    Batch,
    Columns,
    Count,
    Finite,
    LevelOrInfinity,
    LevelOrZero,
    Positive,
    Steps,
)

if TYPE_CHECKING:
    from overtone.pipelines.batches import SampleBatch
    from overtone.pipelines.pipeline import Pipeline
    from overtone.pipelines.receipt import Edit, Receipts
    from overtone.pipelines.request import Request

GRID_LIMIT = 1024
USUAL = 64
"""images, by default"""
LONGEST_NAME = 60
"""letters of a class in the name of a file"""


@dataclass(frozen=True)
class Sampling:
    """What is asked of a pipeline; shared by `sample` and `evaluate`."""

    seeds: str = ""
    """The seeds, like 0-63 or 3,5,8-12, one image each: whole numbers below 2^32, at most 1,000,000
    of them. `sample` and `card` make images of seeds 0 to 63 if this is left out, or of fewer where
    the classes do not divide 64."""
    classes: tuple[str, ...] = ()
    """The class names or numbers that the seeds get, one after another and again from the first. If
    left out, seed k gets class k modulo the number of classes."""
    guidance_scale: Finite | None = None
    """The scale of classifier-free guidance; 1 is none. If left out, it is the model's own."""
    guidance_interval: tuple[LevelOrZero, LevelOrInfinity] | None = None
    """The lowest and the highest sigma at which guidance acts. If left out, they are the model's
    own."""
    guidance_high_scale: Finite | None = None
    """The guidance scale of high frequencies; --guidance-scale is then that of low ones. If left
    out, it is --guidance-scale, or the model's own where that is left out too."""
    guide: str | None = None
    """A weaker model that guides (autoguidance), instead of the model's own estimate without a
    class."""
    steps: Steps | None = None
    """The number of noise levels that the sampler takes. If left out, it is the model's own."""
    evaluations: Count | None = None
    """The number of function evaluations per image, guidance and a first stage included. The
    sampler that was fitted for this number (overtone fit) is used. Without one the model's own
    sampler takes as many steps as the number allows, and a message says so."""
    tolerance: Positive | None = None
    """The largest error that a fitted sampler may have: the root mean square distance to the
    converged images, whose pixels lie in [-1, 1]. It is above 0. The fitted sampler of the fewest
    function evaluations within it is used."""
    finish: str | None = None
    """Change colours as the published generators of relay diffusion do before they save an image:
    relay-imagenet (brightness) or relay-celebahq (contrast, brightness, colour)."""
    batch_size: Batch = 64
    """The number of images that are made at a time."""
    opening: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)

    def open(self, model: str) -> Pipeline:
        """The pipeline, where it runs fastest, with the parts asked for."""
        return self.opening.open(model)

    def request(self, pipe: Pipeline) -> Request:
        """What all processes together are asked for."""
        from overtone.pipelines.request import Request, class_number

        seeds, classes = seeds_of(self.seeds), self.classes
        labels = None
        if classes and pipe.num_classes:
            numbers = [class_number(c, pipe.num_classes, pipe.class_names) for c in classes]
            labels = [numbers[i % len(numbers)] for i in range(len(seeds))]
        elif classes:
            labels = [0] * len(seeds)  # which an unconditional model refuses
        request = Request(
            seeds,
            labels,
            self.guidance_scale,
            self.guidance_interval,
            self.steps,
            self.batch_size,
            open_model(self.guide) if self.guide else None,
            guidance_high_scale=self.guidance_high_scale,
            evaluations=self.evaluations,
            tolerance=self.tolerance,
        )
        return pipe.settled(request)

    def stream(self, pipe: Pipeline, request: Request) -> Iterable[SampleBatch]:
        """The batches of this process's share, with progress in a terminal."""
        from rich.console import Console
        from rich.progress import track

        from overtone.pipelines.pictures import FINISHES

        if self.finish not in (None, *FINISHES):
            raise unknown("finish", str(self.finish), FINISHES)
        among, count = processes(), len(request.seeds)
        if count < among.count:
            few = "seed is" if count == 1 else "seeds are"
            raise OvertoneError(f"{count} {few} too few for {among.count} processes: ask for more.")
        mine = slice(among.index, None, among.count)
        labels: Any = request.class_labels
        request = request.part(mine, None if labels is None else labels[mine])
        batches: Iterable[SampleBatch] = pipe.stream(request)
        if self.finish is not None:
            batches = map(partial(_finished, self.finish), batches)
        console = Console(stderr=True)
        total = -(-len(request.seeds) // self.batch_size)
        shown = console.is_terminal and total > 1 and among.is_main
        return track(batches, "sampling", total, disable=not shown, console=console)

    def facts(self, pipe: Pipeline, model: str, request: Request) -> dict[str, Any]:
        """The receipt of all images that are asked for."""
        return self.receipts(pipe, model, request).whole.as_json()

    def _remember(self, account: dict[str, Any], model: str) -> None:
        from overtone.pipelines.known import remember, weights_of

        remember(weights_of(account), model, self.opening.checkpoint)
        if self.guide is not None:
            remember(weights_of(account, "guide"), self.guide)
        if self.opening.vae is not None:
            remember(weights_of(account, "vae"), self.opening.vae)
        first = account["start"].get("first_stage") or {}
        if self.opening.first is not None and "weights" in first:
            remember(weights_of(first), self.opening.first)

    def receipts(
        self, pipe: Pipeline, model: str, request: Request, edit: Edit | None = None
    ) -> Receipts:
        """The receipts of a request's images. Where the model is on this machine is kept in the
        cache, for `overtone replay`; a receipt does not say it."""
        from overtone.pipelines.load import public_model
        from overtone.pipelines.receipt import Receipts

        receipts = Receipts(
            pipe,
            request,
            model=public_model(model),
            processes=processes(),
            finish=self.finish,
            compile=self.opening.compile,
            edit=edit,
        )
        if processes().is_main:
            self._remember(receipts.whole.account, model)
        return receipts


@dataclass(frozen=True)
class Options:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A saved pipeline, a run's directory, or a repository of the Hub."""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")]
    per_class: Count | None = None
    """The number of images of each class, or of each class that --classes names. It replaces
    --seeds."""
    out: Path = Path("samples")
    """Where the images are written. FILE.png gets a grid. FILE.npz gets all images in one array, as
    ADM's evaluator reads them. A directory gets single images, SEED-CLASS.png each, and the grid
    goes into DIRECTORY.png beside it."""
    columns: Columns | None = None
    """The number of the grid's columns. If left out, there is a column for each class of up to 32,
    with its name above it, and otherwise as many as leave no cell empty."""


def main(arguments: Sequence[str]) -> None:
    check_first(arguments, "sample")
    default = Options(tyro.MISSING, Sampling(opening=saved_options(arguments)))
    options = parse(Options, "sample", __doc__, arguments, default=default)
    suffix = options.out.suffix.lower()
    _check_name(options)
    pipe = options.sampling.open(options.model)
    options = replace(options, sampling=replace(options.sampling, seeds=_seeds(options, pipe)))
    sampling = options.sampling
    request = sampling.request(pipe)
    _check_out(options.out, request, pipe)
    receipts = sampling.receipts(pipe, options.model, request)
    if suffix == ".npz":
        shown, count = _as_array(options, pipe, request, receipts)
    else:
        shown, count = _as_pictures(options, pipe, request, receipts)
    if processes().is_main:
        evaluations = receipts.whole.evaluations
        each = (
            "" if evaluations is None else f", {counted(evaluations, 'function evaluation')} each"
        )
        print(f"{counted(count, 'image')}: {options.out}{each}{shown}", file=sys.stderr)


def _seeds(options: Options, pipe: Pipeline) -> str:
    """The seeds that are asked for, or as many as make a grid without empty cells."""
    asked, count = options.sampling.seeds, len(options.sampling.classes) or pipe.num_classes
    if options.per_class is None:
        return asked or usual_seeds(count)
    if asked:
        raise OvertoneError("--per-class says how many images there are, and so does --seeds.")
    if not count:
        raise OvertoneError("--per-class: this model has no classes.")
    return f"0-{count * options.per_class - 1}"


def usual_seeds(classes: int) -> str:
    """Some 64 seeds, as many as make a grid without empty cells."""
    even = classes * max(1, round(USUAL / classes)) if 0 < classes <= USUAL else USUAL
    return f"0-{even - 1}"


def sampled_grid(sampling: Sampling, pipe: Pipeline, model: str) -> Callable[[Path], None]:
    """A grid of the images that are asked for, made by this process: what writes it, with its
    receipt, into a .png file."""
    import torch

    from overtone.pipelines.receipt_files import save_png
    from overtone.pipelines.sheets import sheet

    request = sampling.request(pipe)
    receipts = sampling.receipts(pipe, model, request)
    batches = list(sampling.stream(pipe, request))
    labels = [int(label) for b in batches if b.class_labels is not None for label in b.class_labels]
    picture, layout = sheet(torch.cat([b.images for b in batches]), labels, pipe.class_names)
    return lambda path: save_png(picture, path, receipts.whole, layout)


def _check_name(options: Options) -> None:
    """Raises `OvertoneError` for a place where no images can go, before a model is opened."""
    from overtone.data.names import SUFFIXES

    out = options.out
    suffix = out.suffix.lower()
    if options.sampling.seeds:
        seeds_of(options.sampling.seeds)
    if suffix in SUFFIXES - {".png"}:
        raise OvertoneError(
            f"--out is a .png file or a directory, not {out}. A name that ends in .npz is possible"
            " as well: it holds the images as one array."
        )
    if suffix == ".npz" and processes().count > 1:
        raise OvertoneError(
            f"--out {out}: one process writes a file of all images: name a directory, or start the"
            " command without a launcher."
        )


def _check_out(out: Path, request: Request, pipe: Pipeline) -> None:
    """Raises `OvertoneError` for a place where these images can't go."""
    suffix, count = out.suffix.lower(), len(request.seeds)
    if suffix == ".png" and count > GRID_LIMIT:
        raise OvertoneError(
            f"a grid shows {GRID_LIMIT:,} images at most, and {count:,} are asked for: name a"
            " directory, --out DIRECTORY, which holds them all."
        )
    if suffix not in (".png", ".npz") and out.is_dir():
        sweep(out, days=1)
        labels = pipe.labels(request)
        numbers = [None] * count if labels is None else labels.tolist()
        pairs = zip(request.seeds, numbers, strict=True)
        wanted = {_file_of(seed, label, pipe.class_names) for seed, label in pairs}
        there = {f.name for f in out.iterdir()}
        strangers = sorted(n for n in there - wanted if not n.startswith(TEMPORARY))
        if strangers:
            raise OvertoneError(
                f"{out} holds other files ({', '.join(strangers[:3])}): choose another --out, so"
                " that what is evaluated is what was asked for."
            )


def _file_of(seed: int, label: int | None, class_names: Sequence[str]) -> str:
    """The name of an image's file, by its seed and its class."""
    if label is None:
        return f"{seed:06d}.png"
    name = class_names[label] if class_names else f"class{label}"
    kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:LONGEST_NAME]
    return f"{seed:06d}-{kept.strip('_') or f'class{label}'}.png"


def _as_array(
    options: Options, pipe: Pipeline, request: Request, receipts: Receipts
) -> tuple[str, int]:
    """All images in one .npz file, as ADM's evaluator reads them, and their receipt beside it."""
    from overtone import storage
    from overtone.data.batches import write_batch

    batches = ((b.images, b.class_labels) for b in options.sampling.stream(pipe, request))
    write_batch(options.out, batches, len(request.seeds))
    beside = options.out.with_suffix(".json")
    storage.write_json(beside, receipts.whole.as_json())
    return f", and their receipt: {beside}", len(request.seeds)


def _as_pictures(
    options: Options, pipe: Pipeline, request: Request, receipts: Receipts
) -> tuple[str, int]:
    """A grid, or single images and a grid beside their directory."""
    import torch

    from overtone.pipelines.aside import Aside
    from overtone.pipelines.pictures import to_pil
    from overtone.pipelines.receipt_files import save_png
    from overtone.pipelines.sheets import sheet

    def write(batch: SampleBatch) -> None:
        for place, (seed, image) in enumerate(zip(batch.seeds, batch.images, strict=True)):
            label = None if batch.class_labels is None else int(batch.class_labels[place])
            path = options.out / _file_of(seed, label, pipe.class_names)
            save_png(to_pil(image), path, receipts.of_image(batch, place))

    single, among = options.out.suffix.lower() != ".png", processes()
    images, labels, count = [], list[int](), 0
    with Aside() as aside:
        for batch in options.sampling.stream(pipe, request):
            if single:
                aside.do(write, batch)
            # A grid shows at most this many; a directory of more is not kept in memory.
            images += [batch.images] if count < GRID_LIMIT // among.count else []
            labels += [] if batch.class_labels is None else batch.class_labels.tolist()
            count += len(batch.seeds)
    parts, every = among.gather(torch.cat(images)), among.gather(labels)
    count = sum(among.gather(count))
    if not among.is_main:
        return "", count
    shown = torch.stack(_dealt(parts)[:GRID_LIMIT])
    # Beside the directory, not in it: its images may be evaluated.
    path = options.out.with_name(f"{options.out.name}.png") if single else options.out
    names = _dealt(every)[: len(shown)]
    picture, layout = sheet(shown, names, pipe.class_names, options.columns)
    save_png(picture, path, receipts.whole, layout)
    return "" if len(shown) == count else f", of which {path} shows {len(shown):,}", count


def _dealt(parts: Sequence[Any]) -> list[Any]:
    """What the processes hold, in order: process r holds r, r + processes, ..."""
    return [one for row in zip_longest(*parts) for one in row if one is not None]


def _finished(name: str, batch: SampleBatch) -> SampleBatch:
    from overtone.pipelines.pictures import finished

    return batch._replace(images=finished(batch.images, name))
