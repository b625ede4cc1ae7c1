"""`overtone data` looks at a data set, encodes its latents, and computes its statistics.

overtone data inspect NAME      shows what is in it, and what could not be used
overtone data encode NAME       encodes its latents under a VAE once, to train on them
overtone data statistics NAME   computes statistics of its features, to compare images with
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from overtone.cli.options import parse
from overtone.data.rules import Crop, Reading
from overtone.data.splits import HELD_OUT_SHARE
from overtone.errors import OvertoneError, counted, plain, unknown
from overtone.ranges import Count, Positive, Share, Size
from overtone.sizes import Resolution, by

if TYPE_CHECKING:
    from overtone.data.inspect import Inspection


@dataclass(frozen=True)
class Options:
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """The data to look at: builtin:digits, builtin:glyphs, builtin:photos or fashion-mnist; a
    folder, zip or .npz of images; hf:... or a parquet file."""
    resolution: Size | None = None
    """The height and width that training would have, in pixels. Smaller pictures are reported as
    refused."""
    channels: Literal[1, 3] = 3
    """The number of channels; 1 reads the images as grey."""
    split: Literal["train", "test"] = "train"
    """The split that is looked at."""
    out: Path = Path("contact-sheet.png")
    """The .png file of the contact sheet."""
    all: bool = False
    """List every image that would be refused, and not the first ten alone."""


@dataclass(frozen=True)
class Reads:
    """How pictures are read."""

    skip_bad_images: bool = False
    """Leave out images that can't be read or are too small, instead of stopping."""
    background: str = "white"
    """The colour that transparent pictures are laid on: a name, such as black, or #rrggbb."""
    crop: Crop = "fit"
    """What of a picture becomes the image: fit, the largest part in the middle that has the
    proportions of the images; square; or none."""

    @property
    def reading(self) -> Reading:
        try:
            return Reading(self.skip_bad_images, self.background, self.crop)
        except ValueError as error:
            raise OvertoneError(f"--{error}.") from None


@dataclass(frozen=True)
class EncodeOptions:
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """The images to encode: builtin:glyphs, builtin:photos, fashion-mnist, a folder or zip of
    images, or hf:..."""
    vae: str
    """The VAE: a directory, the run of a VAE's recipe, or a repository of the Hub."""
    resolution: Resolution
    """The height and width of the images: one number for squares, or two."""
    out: Path
    """The directory of the latents, which `overtone train ... --data` takes. Latents that are there
    are kept."""
    mirror: bool = False
    """Encode every image flipped left to right as well."""
    images: Count | None = None
    """Encode only this many images, spread over the data. Endless data needs it."""
    held_out_share: Share = HELD_OUT_SHARE
    """The share of the images, at most 2,000 of them, whose latents go into a directory of their
    own, to measure on, where the data have no test split. 0 keeps all images for training."""
    scaling_factor: Positive | None = None
    """The scaling factor of the VAE's latents, where its config.json has none. That of Stable
    Diffusion is 0.18215."""
    reads: Annotated[Reads, tyro.conf.arg(name="")] = field(default_factory=Reads)


@dataclass(frozen=True)
class StatisticsOptions:
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """The data set: a name, a folder, a zip, an .npz, a parquet file, hf:..."""
    resolution: Resolution
    """The height and width of the images: one number for squares, or two."""
    out: Path
    """The .npz file that is written, which `overtone evaluate --data` takes."""
    channels: Literal[1, 3] = 3
    """The number of channels; 1 reads the images as grey."""
    extractor: str = "inception"
    """The network whose features these are: inception, dinov2 or random."""
    extractor_weights: str | None = None
    """Its weights, as for `overtone evaluate`."""
    images: Count | None = None
    """The number of images, spread over the data; all of them if left out."""
    reads: Annotated[Reads, tyro.conf.arg(name="")] = field(default_factory=Reads)


def main(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    name, *rest = arguments
    if name not in _SUBCOMMANDS:
        raise unknown("subcommand of data", name, _SUBCOMMANDS)
    _SUBCOMMANDS[name](rest)


def encode(arguments: Sequence[str]) -> None:
    about = "Encode the latents of a data set by a VAE, once, to train on them."
    options = parse(EncodeOptions, "data encode", about, arguments)
    from overtone import precision
    from overtone.data import latents
    from overtone.data.shards import TEST_FOLDER
    from overtone.launch import processes
    from overtone.training.material import images_of
    from overtone.training.open import open_vae

    show = processes().is_main
    vae = open_vae(options.vae, options.scaling_factor).to(precision.default_device())
    images, test = images_of(
        options.data,
        options.resolution,
        vae.image_channels,
        share=options.held_out_share,
        reading=options.reads.reading,
        show=show,
    )
    index = latents.latents_index(images, vae, mirror=options.mirror, images=options.images)
    if show:
        latents.check_folder(options.out, index)
        if test is None and latents.is_latents(str(options.out / TEST_FOLDER)):
            raise OvertoneError(
                f"{options.out / TEST_FOLDER} holds latents of held-out images, and {options.data}"
                " has none: delete it, or choose another directory."
            )
    processes().wait()
    if test is not None:  # first: latents without them would be trained on as they are
        held_out = latents.latents_index(test, vae, images=len(test))
        latents.encode(test, vae, options.out / TEST_FOLDER, held_out, show=show)
    data = latents.encode(images, vae, options.out, index, show=show)
    if show:
        held = "" if test is None else f", and {len(test):,} of held-out images"
        said = f"{counted(len(data), 'latent')} of {by(data.resolution)} px"
        print(plain(f"{options.out}: {said} with {data.channels} channels{held}"))


def statistics(arguments: Sequence[str]) -> None:
    about = "Compute feature statistics of a data set, for EDM's fid.py and ADM's evaluator."
    options = parse(StatisticsOptions, "data statistics", about, arguments)
    if options.out.suffix.lower() != ".npz":
        raise OvertoneError(f"--out is an .npz file, not {options.out}.")
    from overtone.launch import processes
    from overtone.metrics.extractors import features_by_name
    from overtone.metrics.reference import save_reference
    from overtone.training.judging import statistics_of

    found = statistics_of(
        options.data,
        options.resolution,
        options.channels,
        features_by_name(options.extractor, options.extractor_weights),
        images=options.images,
        reading=options.reads.reading,
    )
    if processes().is_main:
        save_reference(options.out, found)
        print(plain(f"{options.out}: {found.count:,} images, {found.extractor}"))


def inspect(arguments: Sequence[str]) -> None:
    about = "Show what a data set holds, and which of its images can't be used."
    options = parse(Options, "data inspect", about, arguments)
    from overtone import storage
    from overtone.data.inspect import inspect_data
    from overtone.pipelines.pictures import grid

    if options.out.suffix.lower() != ".png":
        raise OvertoneError(f"--out is a .png file, not {options.out}.")
    found = inspect_data(options.data, options.resolution, options.channels, options.split)
    report(found, options.all)
    if found.sheet is not None:
        with storage.new_file(options.out) as file:
            grid(found.sheet, 8, gap=1).save(file)
        print(plain(f"contact sheet: {options.out}"))
    if found.refused:
        print(
            f"overtone: {counted(len(found.refused), 'image')} would be refused: repair or remove"
            " them, or train with --skip-bad-images.",
            file=sys.stderr,
        )
        sys.exit(1)


def report(found: Inspection, everything: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    many = "any number of images" if found.endless else counted(found.count, "image")
    console.print(plain(f"{found.name}, {found.split} split: {many}"), soft_wrap=True)
    if found.sizes:
        smallest = min(found.sizes, key=min)
        largest = max(found.sizes, key=min)
        sizes = f"{len(found.sizes)} sizes, {_by(smallest)} to {_by(largest)}"
        console.print(f"size: {_by(smallest) if len(found.sizes) == 1 else sizes}")
    for what, count in found.conversions.most_common():
        console.print(plain(f"{what}: {counted(count, 'image')}"), soft_wrap=True)
    for note in found.notes:
        console.print(plain(note), soft_wrap=True)
    if found.classes:
        table = Table(
            box=None, title=counted(len(found.classes), "class", "classes"), title_justify="left"
        )
        table.add_column("class")
        table.add_column("images", justify="right")
        for name, count in list(found.classes.items())[:40]:
            table.add_row(Text(plain(name)), "" if found.endless else f"{count:,}")
        console.print(table)
        if len(found.classes) > 40:
            console.print(f"... and {len(found.classes) - 40} more")
    else:
        console.print("no classes")
    shown = found.refused if everything else found.refused[:10]
    for reason in shown:
        console.print(plain(f"refused: {reason}"), soft_wrap=True)
    if len(shown) < len(found.refused):
        console.print(f"... and {len(found.refused) - len(shown)} more: --all lists them")


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


_SUBCOMMANDS = {"inspect": inspect, "encode": encode, "statistics": statistics}
