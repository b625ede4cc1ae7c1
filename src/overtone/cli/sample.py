"""`overtone sample MODEL`: images from a trained model."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
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
from overtone.ranges import Batch, Columns, Finite, LevelOrInfinity, LevelOrZero, Steps

if TYPE_CHECKING:
    from overtone.pipelines.batches import SampleBatch
    from overtone.pipelines.pipeline import Pipeline
    from overtone.pipelines.receipt import Edit, Receipts
    from overtone.pipelines.request import Request

GRID_LIMIT = 1024


@dataclass(frozen=True)
class Sampling:
    """What is asked of a pipeline; shared by `sample` and `evaluate`."""

    seeds: str = "0-63"
    """The seeds, like 0-63 or 3,5,8-12. Each gives one image."""
    classes: tuple[str, ...] = ()
    """Class names or numbers, taken in turn. If left out, seed k gets class k mod classes."""
    guidance_scale: Finite | None = None
    """The scale of classifier-free guidance; 1 is none. If left out, it is the model's own."""
    guidance_interval: tuple[LevelOrZero, LevelOrInfinity] | None = None
    """The lowest and the highest sigma at which guidance acts."""
    guide: str | None = None
    """A weaker model to guide with (autoguidance), in the place of the model asked for no class."""
    steps: Steps | None = None
    """The number of noise levels that the sampler takes. If left out, it is the model's own."""
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
        return Request(
            seeds,
            labels,
            self.guidance_scale,
            self.guidance_interval,
            self.steps,
            self.batch_size,
            open_model(self.guide) if self.guide else None,
        )

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
            raise OvertoneError(f"{count} {few} too few for {among.count} processes.")
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
    model: tyro.conf.Positional[str]
    """A saved pipeline, a run's directory, or a repository of the Hub."""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")]
    out: Path = Path("samples")
    """Where the images go: FILE.png takes a grid; FILE.npz all images in one array, as ADM's
    evaluator reads them; a directory single images, with a grid in DIRECTORY.png beside it."""
    columns: Columns | None = None
    """The number of the grid's columns. If left out, there is a column for each class where there
    are up to 16 of them, two or more where the grid would be a strip, and else 8."""


def main(arguments: Sequence[str]) -> None:
    check_first(arguments, "sample")
    default = Options(tyro.MISSING, Sampling(opening=saved_options(arguments)))
    options = parse(Options, "sample", __doc__, arguments, default=default)
    sampling, suffix = options.sampling, options.out.suffix.lower()
    _check_out(options.out, seeds_of(sampling.seeds))
    pipe = sampling.open(options.model)
    request = sampling.request(pipe)
    receipts = sampling.receipts(pipe, options.model, request)
    if suffix == ".npz":
        shown, count = _as_array(options, pipe, request, receipts)
    else:
        shown, count = _as_pictures(options, pipe, request, receipts)
    if processes().is_main:
        evaluations = receipts.whole.evaluations
        each = "" if evaluations is None else f", {evaluations:g} function evaluations each"
        print(f"{counted(count, 'image')}: {options.out}{each}{shown}", file=sys.stderr)


def _check_out(out: Path, seeds: Sequence[int]) -> None:
    """Raises `OvertoneError` for a place where the images can't go."""
    from overtone.data.names import SUFFIXES

    suffix = out.suffix.lower()
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
    if suffix == ".png" and len(seeds) > GRID_LIMIT:
        raise OvertoneError(
            f"a grid shows {GRID_LIMIT:,} images at most, and {len(seeds):,} are asked for: name a"
            " directory, --out DIRECTORY, which holds them all."
        )
    if suffix not in (".png", ".npz") and out.is_dir():
        sweep(out, days=1)
        wanted = {_file_of(seed) for seed in seeds}
        there = {f.name for f in out.iterdir()}
        strangers = sorted(n for n in there - wanted if not n.startswith(TEMPORARY))
        if strangers:
            raise OvertoneError(
                f"{out} holds other files ({', '.join(strangers[:3])}): choose another --out, so"
                " that what is evaluated is what was asked for."
            )


def _file_of(seed: int) -> str:
    return f"{seed:06d}.png"


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

    from overtone.pipelines.pictures import grid, to_pil
    from overtone.pipelines.receipt_files import save_png

    single, among = options.out.suffix.lower() != ".png", processes()
    images, count = [], 0
    for batch in options.sampling.stream(pipe, request):
        if single:
            for place, (seed, image) in enumerate(zip(batch.seeds, batch.images, strict=True)):
                path = options.out / _file_of(seed)
                save_png(to_pil(image), path, receipts.of_image(batch, place))
        # A grid shows at most this many; a directory of more is not kept in memory.
        images += [batch.images] if count < GRID_LIMIT // among.count else []
        count += len(batch.seeds)
    parts = among.gather(torch.cat(images))
    count = sum(among.gather(count))
    if not among.is_main:
        return "", count
    # Process r holds images r, r + processes, ...: deal them out again.
    dealt = [image for row in zip_longest(*parts) for image in row if image is not None]
    sheet = torch.stack(dealt[:GRID_LIMIT])
    # Beside the directory, not in it: its images may be evaluated.
    path = options.out.with_name(f"{options.out.name}.png") if single else options.out
    columns = min(options.columns or columns_of(pipe.num_classes, len(sheet)), len(sheet))
    save_png(grid(sheet, columns, gap=1), path, receipts.whole)
    return "" if len(sheet) == count else f", of which {path} shows {len(sheet):,}", count


def _finished(name: str, batch: SampleBatch) -> SampleBatch:
    from overtone.pipelines.pictures import finished

    return batch._replace(images=finished(batch.images, name))


def columns_of(num_classes: int, count: int) -> int:
    """A column for each class of up to 16, so that it shows one class; twice as many while the grid
    is more than twice as high as it is wide."""
    if not 1 < num_classes <= 16:
        return 8
    columns = num_classes
    while 2 * columns <= 16 and count > 2 * columns**2:
        columns *= 2
    return columns
