"""`overtone edit MODEL PICTURE` changes a picture of your own by a model."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from overtone.cli.model import check_first, saved_options
from overtone.cli.options import parse
from overtone.cli.sample import Sampling
from overtone.errors import OvertoneError, counted
from overtone.ranges import Repeats, Share
from overtone.sizes import sides

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Options:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The model: a saved pipeline, a run's directory, a repository of the Hub, or a diffusers
    pipeline."""
    picture: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PICTURE")]
    """The image file. It has the size of the model's images, unless --fit is given."""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")]
    strength: Share = 0.5
    """The share of the sampler's steps that are taken, in [0, 1]: at 0 the picture comes back as it
    is, at 1 nothing of it is left but what the mask keeps."""
    mask: Path | None = None
    """An image file of the same size, which is white where the picture is kept and black where the
    model paints."""
    resamples: Repeats | None = None
    """How many times each step is taken under a mask (RePaint); 1 is plain replacement. If left
    out, it is 4, or 1 where the sampler or the process can't go back."""
    fit: bool = False
    """Crop the picture and the mask to a square and resize them to the size of the model's
    images."""
    out: Path = Path("edited.png")
    """The .png file that is written: one image, or a grid of one for each seed."""


def main(arguments: Sequence[str]) -> None:
    check_first(arguments, "edit")
    default = Options(
        tyro.MISSING, tyro.MISSING, Sampling(seeds="0", opening=saved_options(arguments))
    )
    options = parse(Options, "edit", __doc__, arguments, default=default)
    if options.out.suffix.lower() != ".png":
        raise OvertoneError(f"--out is a .png file, not {options.out}.")
    if options.sampling.finish is not None:
        raise OvertoneError("--finish changes whole images, also what is kept: leave it out.")
    from overtone.pipelines.batches import SampleBatch
    from overtone.pipelines.pictures import grid, pixels_of
    from overtone.pipelines.receipt import Edit
    from overtone.pipelines.receipt_files import save_png

    pipe = options.sampling.open(options.model)
    request = options.sampling.request(pipe)
    if pipe.num_classes and request.class_labels is None:
        raise OvertoneError(
            f"this model has {pipe.num_classes} classes: say which the picture is of, --classes."
        )
    picture = opened_picture(options.picture, pipe.resolution, options.fit)
    mask = (
        None if options.mask is None else opened_picture(options.mask, pipe.resolution, options.fit)
    )
    edit = Edit(
        picture=_digest(picture, pipe.channels),
        mask=None if mask is None else _digest(mask, 1),
        strength=options.strength,
        resamples=options.resamples,
    )
    receipts = options.sampling.receipts(pipe, options.model, request, edit)
    own = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    asked = {name: value for name, value in own.items() if name not in ("seeds", "class_labels")}
    images = pipe.edit(
        picture,
        options.strength,
        mask,
        request.class_labels,
        request.seeds,
        options.resamples,
        **asked,
    )
    pixels, labels = pixels_of(images, pipe.channels), pipe.labels(request)
    if len(images) == 1:
        batch = SampleBatch(list(request.seeds), labels, pixels, pixels)
        save_png(images[0], options.out, receipts.of_image(batch, 0))
    else:
        save_png(grid(pixels, min(len(images), 8), gap=1), options.out, receipts.whole)
    print(f"{counted(len(images), 'image')}: {options.out}", file=sys.stderr)


def _digest(picture: Image, channels: int) -> str:
    from overtone.pipelines.pictures import pixels_of
    from overtone.pipelines.receipt import digest_of_pixels

    return digest_of_pixels(pixels_of([picture], channels)[0])


def opened_picture(path: Path, resolution: int | tuple[int, int], fit: bool) -> Image:
    """A picture from a file, of the model's size."""
    from PIL import Image, ImageOps

    from overtone.pipelines.pictures import read_picture

    picture = read_picture(path)
    size = sides(resolution)[::-1]
    if fit:
        return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    if picture.size != size:
        raise OvertoneError(
            f"{path} is {picture.width} x {picture.height} px, and the model's images are"
            f" {size[0]} x {size[1]} px: resize it, or pass --fit, which crops it to"
            f" {'a square' if size[0] == size[1] else 'these proportions'} and resizes it."
        )
    return picture
