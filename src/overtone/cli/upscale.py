"""`overtone upscale PICTURES --model RELAY` enlarges your own pictures by a second stage.

    overtone upscale holiday.jpg --model runs/relay-images
    overtone upscale ~/pictures --model runs/relay-images --classes cat --out enlarged

Pictures may have any size. Those that are larger than the model's are enlarged in overlapping
tiles.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from overtone.cli.model import ModelOptions, saved_options
from overtone.cli.options import parse
from overtone.errors import OvertoneError, counted, plain
from overtone.ranges import Batch, Finite, Seed, Steps, Whole

if TYPE_CHECKING:
    from PIL.Image import Image

    from overtone.pipelines.pipeline import Pipeline


@dataclass(frozen=True)
class Options:
    pictures: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PICTURE [PICTURE ...]")
    ]
    """Image files, or folders of them."""
    model: str
    """The model, which has the second stage of a relay: a saved pipeline, a run's directory, or a
    repository of the Hub."""
    opening: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    classes: tuple[str, ...] = ()
    """The class of all pictures, by its name or number, or one for each picture. If left out, a
    picture in a folder that is named like a class is of that class, and others are of none."""
    out: Path = Path("upscaled")
    """The directory into which each picture is written under its own name, those of a folder with
    their places in it; or a .png file for one picture."""
    overlap: Whole | None = None
    """The overlap of neighbouring tiles, in pixels of the picture. It is at least 0 and below the
    size of a tile. If left out, it is half of a tile's shorter side."""
    background: str = "white"
    """The colour that transparent pictures are laid on."""
    seed: Seed = 0
    """The seed of the noise."""
    guidance_scale: Finite | None = None
    """The scale of classifier-free guidance; 1 is none. If left out, it is the model's own."""
    steps: Steps | None = None
    """The number of noise levels that the sampler takes. If left out, it is the model's own."""
    batch_size: Batch = 16
    """The number of tiles that are computed at a time."""


def main(arguments: Sequence[str]) -> None:
    model = _named(arguments)
    opening = saved_options([model, *arguments]) if model else ModelOptions()
    default = Options((), tyro.MISSING, opening=opening)
    options = parse(Options, "upscale", __doc__, arguments, default=default)
    found = _files(options.pictures, options.out)
    files, places = list(found), _places(found, options.out)
    if len(options.classes) not in (0, 1, len(files)):
        raise OvertoneError(
            f"--classes names {len(options.classes)} classes for {counted(len(files), 'picture')}:"
            " name one, or one for each."
        )
    if options.opening.first is not None or options.opening.first_stage != opening.first_stage:
        raise OvertoneError(
            "--first and --first-stage: the pictures take the place of the first stage. Leave them"
            " out."
        )
    from overtone.pipelines.aside import Aside
    from overtone.pipelines.receipt_files import save_png
    from overtone.pipelines.upscale import upscale_tiled

    pipe = options.opening.open(options.model)
    if not pipe.num_classes and options.classes:
        raise OvertoneError("--classes: this model has no classes: leave it out.")
    asked = {"guidance_scale": options.guidance_scale, "steps": options.steps}
    labels = _labels(options, files, pipe)
    _check(options, files, labels, pipe, asked)

    def write(made: Image, place: Path) -> None:
        save_png(made, place, None)
        print(plain(f"{place}: {made.width} x {made.height} px"), file=sys.stderr)

    with Aside() as aside:
        for file, place, label in zip(files, places, labels, strict=True):
            picture, done = _opened(file, options.background, pipe.channels)
            for what in done:
                print(plain(f"{file}: {what}"), file=sys.stderr)
            made = upscale_tiled(
                pipe,
                picture,
                label,
                options.seed,
                overlap=options.overlap,
                at_a_time=options.batch_size,
                told=partial(_shown, file),
                **asked,
            )
            aside.do(write, made, place)


def _check(
    options: Options, files: Sequence[Path], labels: Sequence[int | None], pipe: Any, asked: Any
) -> None:
    """Raises `OvertoneError` for what can't be enlarged, before anything is."""
    from overtone.pipelines.upscale import check_size, of_no_class

    if pipe.num_classes and None in labels:
        of_no_class(pipe, asked)
    for file in files:
        picture, _ = _opened(file, options.background, pipe.channels)
        try:
            check_size(pipe, *picture.size)
        except OvertoneError as error:
            raise OvertoneError(f"{file}: {error}") from None


def _labels(options: Options, files: Sequence[Path], pipe: Pipeline) -> list[int | None]:
    """The class of each picture: the one that is named, or that of its folder, or none."""
    from overtone.pipelines.request import class_number

    if not pipe.num_classes:
        return [None] * len(files)
    names: list[Any] = list(options.classes)
    if names:
        names = names * len(files) if len(names) == 1 else names
    else:
        folders = [file.resolve().parent.name for file in files]
        names = [name if name in pipe.class_names else None for name in folders]
        unnamed = names.count(None)
        told = f"{counted(len(files) - unnamed, 'picture')} of the class of its folder's name, "
        print(plain(f"{told}{unnamed:,} of no class (--classes names them)"), file=sys.stderr)
    return [
        None if name is None else class_number(name, pipe.num_classes, pipe.class_names)
        for name in names
    ]


def _named(arguments: Sequence[str]) -> str | None:
    """The model that is named, before the options are parsed, as they follow from it."""
    for number, argument in enumerate(arguments):
        if argument == "--model" and number + 1 < len(arguments):
            return arguments[number + 1]
        if argument.startswith("--model="):
            return argument.partition("=")[2]
    return None


def _files(pictures: Sequence[Path], out: Path) -> dict[Path, Path]:
    """The image files that are named, and those in the folders that are, each with its name below
    the folder; but for hidden ones, and those in a directory below that is written into."""
    from overtone.data.names import SUFFIXES

    if not pictures:
        raise OvertoneError("name the pictures: overtone upscale PICTURE ... --model RELAY.")
    found: dict[Path, Path] = {}
    for path in pictures:
        if path.is_dir():
            below = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES)
            own = [
                f for f in below if f.is_file() and not _left_out(f.relative_to(path), path, out)
            ]
            if not own:
                raise OvertoneError(
                    f"{path} holds no pictures: name a folder that does, or a picture."
                )
            found |= {file: file.relative_to(path) for file in own}
        elif path.exists():
            found[path] = Path(path.name)
        else:
            raise OvertoneError(f"{path} does not exist: check the name.")
    return found


def _left_out(name: Path, folder: Path, out: Path) -> bool:
    """Whether a picture of a folder is hidden, or was made by an earlier command."""
    made = (folder / name).resolve().parents
    written = out.resolve() in made and out.resolve() != folder.resolve()
    return written or any(part.startswith(".") for part in name.parts)


def _places(files: Mapping[Path, Path], out: Path) -> list[Path]:
    """Where each picture goes. Raises `OvertoneError` for two that would go to one place, and for a
    place of one of the pictures."""
    if out.suffix.lower() == ".png":
        if len(files) != 1:
            raise OvertoneError(
                f"--out {out} is one file, and there are {len(files):,} pictures: name a directory."
            )
        places = [out]
    elif out.suffix and not out.is_dir():
        raise OvertoneError(f"--out is a .png file or a directory, not {out}.")
    else:
        places = [out / name.with_suffix(".png") for name in files.values()]
    if twice := [place for place, count in Counter(places).items() if count > 1]:
        raise OvertoneError(
            f"several pictures are called {min(twice).stem}: upscale them into other directories."
        )
    own = {file.resolve() for file in files}
    if over := [place for place in places if place.resolve() in own]:
        raise OvertoneError(f"{over[0]} is one of the pictures: choose another --out.")
    return places


def _opened(file: Path, background: str, channels: int) -> tuple[Any, Sequence[str]]:
    """A picture from a file, in the colours of the model, and what was done to it for that."""
    from overtone.data.converting import to_mode
    from overtone.pipelines.pictures import read_picture

    try:
        return to_mode(read_picture(file), "L" if channels == 1 else "RGB", background)
    except ValueError as error:
        raise OvertoneError(f"{file} can't be read ({error}).") from None


def _shown(file: Path, steps: Iterator[Any], count: int) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return iter(track(steps, plain(file.name), count, disable=not console.is_terminal,
                      console=console))  # fmt: skip
