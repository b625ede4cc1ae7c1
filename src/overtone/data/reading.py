"""How images from anywhere become arrays.

A source (a folder, a zip, a data set of the Hub) is decoded once: every image is read, cropped,
resized and written to a memory map in the cache, so that an unreadable file is found before any
training time is spent and never again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from overtone import storage
from overtone.data.converting import MOST_PIXELS, converted, resized
from overtone.data.images import ArrayData
from overtone.data.rules import Reading
from overtone.errors import OvertoneError
from overtone.launch import processes
from overtone.leftovers import sweep
from overtone.sizes import Resolution, sides

PLAIN = Reading()
"""how pictures are read by default"""
FORMAT = 5
"""what the cache holds: 5 has digests of the pictures as they were stored"""
FREE_PIXELS, DENSEST = 2**24, 500
"""pixels of a picture, and pixels for a byte of its file: more of both is refused"""

LARGE = 2**24
"""pixels above which images are decoded one at a time, for the memory that takes"""
_LARGE = Lock()

# Formats by content, whatever the file is called: EPS, for one, would be handed to another program.
FORMATS = (
    *("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"),
    *("AVIF", "DDS", "DIB", "ICO", "JPEG2000", "PCX", "PSD", "QOI", "SGI", "TGA"),
)


@functools.cache
def _known_formats() -> tuple[str, ...]:
    """Those that this build of Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_image(file: IO[bytes]) -> Image.Image:
    """An image, not decoded yet. Raises `OSError` for anything else, and `ValueError` for one that
    would take far more memory than its file has bytes."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    image = Image.open(file, formats=_known_formats())
    pixels = image.width * image.height
    if FREE_PIXELS < pixels <= MOST_PIXELS and pixels > DENSEST * size:
        raise ValueError(f"{pixels:,} pixels in a file of {size:,} bytes")
    return image


class Item(NamedTuple):
    """An image that has not been read yet."""

    name: str
    read: Callable[[], Image.Image]
    """Opens the image. It raises `OSError`, `ValueError` or the like for what is not an image."""
    label: int | None = None


@dataclass
class Source:
    """Images from somewhere, in a fixed order, not decoded yet."""

    name: str
    key: str
    """A text that changes when the images or their classes may have changed."""
    items: Callable[[], Iterable[Item]]
    count: int | None = None
    """The number of images. None means that only going through them tells."""
    class_names: Sequence[str] = field(default_factory=tuple)
    notes: Sequence[str] = ()
    """Sentences on what was passed over."""


def decode(
    source: Source, resolution: Resolution, channels: int, reading: Reading = PLAIN
) -> ArrayData:
    """The images of a source, of one size, from the cache or read now.

    Raises `OvertoneError` for a source without images, and for images that can't be read or are
    smaller than the resolution, unless `reading` leaves those out. Every process has to call it.
    """
    if channels not in (1, 3):
        raise OvertoneError(f"images are read with 1 or 3 channels, not {channels}.")
    rule = rule_of(reading, resolution)
    what = f"{source.key} {resolution} {channels} {rule} {FORMAT}"
    if (
        reading.skip_bad
    ):  # what was left out is kept by its name, which is another from another place
        what = f"{what} {source.name}"
    digest = hashlib.sha256(what.encode(errors="surrogatepass")).hexdigest()[:20]
    folder, among = storage.cache_directory() / "images" / digest, processes()
    if among.is_main and folder.exists() and not _is_whole(folder, resolution, channels):
        storage.remove_directory(folder)
    among.wait()
    if among.any(not (folder / "index.json").exists()):
        # One process a machine reads; the others wait for it.
        if among.local_index == 0 and not (folder / "index.json").exists():
            sweep(folder.parent, days=1)
            with storage.new_directory(folder, once=True) as temporary:
                _decode_into(temporary, source, resolution, channels, reading)
        among.wait()
    index = storage.read_json(folder / "index.json")
    shape = (index["count"], channels, *sides(resolution))
    return ArrayData(
        source.name,
        np.memmap(folder / "images.bin", np.uint8, mode="r", shape=shape),
        np.fromfile(folder / "labels.bin", np.int64) if source.class_names else None,
        source.class_names,
        rule,
        index["fingerprint"],
        index["bad"],
        index["conversions"],
        index["resized"],
        source.notes,
        np.fromfile(folder / "contents.bin", np.uint64),
    )


def rule_of(reading: Reading, resolution: Resolution) -> str:
    """What is done to pictures. Raises `OvertoneError` for a rule that makes no such images."""
    try:
        return reading.rule(resolution)
    except ValueError as error:
        raise OvertoneError(f"{error}.") from None


def _is_whole(folder: Path, resolution: Resolution, channels: int) -> bool:
    """Whether the files of decoded images are there, and as long as they have to be: what a crash
    or a full disk cut short is made again."""
    try:
        index = storage.read_json(folder / "index.json", dict)
        count = index["count"]
        sizes = {
            "images.bin": channels * math.prod(sides(resolution)),
            "labels.bin": 8,
            "contents.bin": 8,
        }
        files = [(folder / name, size * count) for name, size in sizes.items()]
        known = {"fingerprint", "bad", "conversions", "resized"} <= index.keys()
        return known and all(f.is_file() and f.stat().st_size == size for f, size in files)
    except (OvertoneError, OSError, KeyError, TypeError):
        return False


class Picture(NamedTuple):
    """An image that was read."""

    pixels: np.ndarray
    """The pixels are (channels, resolution, resolution) uint8."""
    done: list[str]
    """What was done to read the picture."""
    contents: int
    """A digest of the picture as it was stored."""


def read_item(
    item: Item, resolution: Resolution, channels: int, reading: Reading = PLAIN
) -> Picture:
    """An image, read, cropped and resized.

    Raises `OvertoneError`, naming the image, if it can't be read or is too small.
    """
    try:
        image = item.read()
        with _LARGE if image.width * image.height > LARGE else contextlib.nullcontext():
            image, conversions, contents = converted(
                image, "RGB" if channels == 3 else "L", reading.background
            )
    except Exception as error:  # damaged files make Pillow raise almost anything
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"not {', '.join(FORMATS)}" if unknown else str(error)
        raise OvertoneError(f"{item.name} can't be read ({reason}).") from None
    image = resized(image, resolution, reading.crop, item.name)
    pixels = np.asarray(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Picture(pixels, conversions, contents)


def read_all(
    items: Iterable[Item],
    resolution: Resolution,
    channels: int,
    count: int | None = None,
    reading: Reading = PLAIN,
) -> Iterator[tuple[Item, Picture | OvertoneError]]:
    """Read in a few threads (Pillow works outside Python's lock), in order, some ahead."""
    from rich.console import Console
    from rich.progress import track

    def read(item: Item) -> Picture | OvertoneError:
        try:
            return read_item(item, resolution, channels, reading)
        except OvertoneError as error:
            return error

    quick = count is not None and count < 2000
    items = iter(track(items, "reading images", count, console=Console(stderr=True), disable=quick))
    with ThreadPoolExecutor() as pool:
        while part := list(islice(items, 256)):
            yield from zip(part, pool.map(read, part), strict=True)


def measured(item: Item, sizes: dict[str, tuple[int, int]]) -> Item:
    """The item, noting the size of its image when it is read."""

    def read() -> Image.Image:
        image = item.read()
        sizes[item.name] = image.size
        return image

    return item._replace(read=read)


def check_bad(bad: Sequence[str], good: int, reading: Reading, advice: str) -> None:
    """Raises `OvertoneError` for what could not be read, unless it is left out and something is
    left."""
    if bad and not (reading.skip_bad and good):
        more = f" {len(bad) - 3:,} more like it." if len(bad) > 3 else ""
        raise OvertoneError(f"{' '.join(bad[:3])}{more} {advice}")


def _decode_into(
    folder: Path, source: Source, resolution: Resolution, channels: int, reading: Reading
) -> None:
    labels: list[int] = []
    contents: list[int] = []
    bad: list[str] = []
    conversions: Counter[str] = Counter()
    digest = hashlib.sha256()
    sizes: dict[str, tuple[int, int]] = {}
    items = (measured(item, sizes) for item in source.items())
    others = 0
    with (folder / "images.bin").open("wb") as file:
        for item, result in read_all(items, resolution, channels, source.count, reading):
            size = sizes.pop(item.name, None)
            if isinstance(result, OvertoneError):
                bad.append(str(result))
                continue
            pixels = result.pixels
            contents.append(result.contents)
            conversions.update(result.done)
            others += size != sides(resolution)[::-1]
            labels.append(item.label or 0)
            file.write(pixels.tobytes())
            digest.update(pixels.tobytes())
    check_bad(bad, len(labels), reading, "Repair or remove them, or pass --skip-bad-images.")
    if not labels:
        raise OvertoneError(
            f"{source.name} has no images: overtone data inspect shows what it holds."
        )
    numbers = np.array(labels, np.int64)
    numbers.tofile(folder / "labels.bin")
    np.array(contents, np.uint64).tofile(folder / "contents.bin")
    digest.update(numbers.tobytes())
    index = {"count": len(labels), "bad": bad, "conversions": dict(conversions)}
    index |= {"resized": others}
    fingerprint = {"fingerprint": digest.hexdigest()[:16]}
    storage.write_json(folder / "index.json", index | fingerprint)
