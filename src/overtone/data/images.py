"""The image data contract, and how images from anywhere become arrays.

A source (a folder, a zip, a data set of the Hub) is decoded once: every image is read, cropped,
resized and written to a memory map in the cache, so that an unreadable file is found before any
training time is spent and never again.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from overtone import storage
from overtone.errors import OvertoneError
from overtone.launch import processes
from overtone.processes.noise import SeededNoise

FORMAT = 2
"""what the cache holds: 2 counts the images of another size"""
RESIZE_RULE = "centre crop to a square, Lanczos"

Pixels = UInt8[Tensor, "batch channels height width"]


class ImageData(ABC):
    """Square images of one size, by index, with their classes where they have any."""

    name: str
    resolution: int
    channels: int
    class_names: tuple[str, ...] = ()  # empty: no classes
    resize_rule: str = "none"
    endless: bool = False  # any index gives a new image; len() is only an upper end
    fingerprint: str  # changes when the images or their classes do
    left_out: Sequence[str] = ()  # images that were asked to be skipped, and why
    conversions: Mapping[str, int] = {}  # what was done to how many images to read them
    resized: int = 0  # images that had another size, and were cropped or made smaller

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fetch(self, indices: Sequence[int]) -> tuple[Tensor, Int[Tensor, " batch"]]:
        """The images, uint8, and their class labels (all 0 where there are no classes).

        Of latents what is kept of them, which `clean` knows what to do with.
        """

    def classes(self, indices: Sequence[int]) -> Int[Tensor, " batch"]:
        """The class labels alone, where that is less work."""
        return self.fetch(indices)[1]

    def spread(self, count: int) -> list[int]:
        """`count` indices evenly over the data, which may be sorted; the first ones where it never
        ends."""
        over = count if self.endless else len(self)
        return [i * over // count for i in range(count)]

    def clean(
        self, items: Tensor, source: SeededNoise
    ) -> Float[Tensor, "batch channels height width"]:
        """What was fetched as x_0, float32: images in [-1, 1]. `source` is for what is drawn."""
        return to_unit(items)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


class ArrayData(ImageData):
    """Images held in one array, in memory or mapped from a file.

    `images` is (count, channels, resolution, resolution) uint8, `labels` (count,) or None.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] = (),
        resize_rule: str = "none",
        fingerprint: str | None = None,
        left_out: Sequence[str] = (),
        conversions: Mapping[str, int] | None = None,
        resized: int = 0,
    ) -> None:
        self.name = name
        self.images = images
        self.labels = np.zeros(len(images), np.int64) if labels is None else labels
        self.channels, self.resolution = images.shape[1:3]
        self.class_names = tuple(class_names)
        self.resize_rule = resize_rule
        self.left_out = left_out
        self.conversions = conversions or {}
        self.resized = resized
        self.fingerprint = fingerprint or _fingerprint(images.tobytes(), self.labels.tobytes())
        if class_names and not 0 <= self.labels.min() <= self.labels.max() < len(class_names):
            raise OvertoneError(
                f"{name}: labels go from {self.labels.min()} to {self.labels.max()},"
                f" outside the {len(class_names)} classes."
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getstate__(self) -> dict[str, Any]:
        """For loader processes: a memory map goes as the name of its file, not as its contents."""
        state = self.__dict__.copy()
        if isinstance(self.images, np.memmap):
            state["images"] = (str(self.images.filename), self.images.shape)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["images"], tuple):
            file, shape = state["images"]
            state["images"] = np.memmap(file, np.uint8, mode="r", shape=shape)
        self.__dict__.update(state)

    def fetch(self, indices: Sequence[int]) -> tuple[Pixels, Int[Tensor, " batch"]]:
        rows = np.asarray(indices)
        return torch.from_numpy(self.images[rows]), torch.from_numpy(self.labels[rows])

    def classes(self, indices: Sequence[int]) -> Int[Tensor, " batch"]:
        return torch.from_numpy(self.labels[list(indices)])


def to_unit(pixels: Pixels) -> Float[Tensor, "batch channels height width"]:
    """uint8 to [-1, 1], float32."""
    return pixels.float() / 127.5 - 1


def to_pixels(images: Float[Tensor, "batch channels height width"]) -> Pixels:
    """[-1, 1] to uint8, rounded and clipped; the inverse of `to_unit`."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


# Formats by content, whatever the file is called: EPS, for one, would be handed to another program.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def open_image(file: IO[bytes]) -> Image.Image:
    """An image, not decoded yet; raises `OSError` for anything else."""
    return Image.open(file, formats=FORMATS)


class Item(NamedTuple):
    """An image that has not been read yet."""

    name: str
    read: Callable[[], Image.Image]
    """opens it; raises `OSError`, `ValueError` or the like for what is no image"""
    label: int | None = None


@dataclass
class Source:
    """Images from somewhere, in a fixed order, not decoded yet."""

    name: str
    key: str
    """changes when the images or their classes may have"""
    items: Callable[[], Iterable[Item]]
    count: int | None = None
    """None where only going through them tells"""
    class_names: Sequence[str] = field(default_factory=tuple)


def decode(source: Source, resolution: int, channels: int, *, skip_bad: bool = False) -> ArrayData:
    """The images of a source, square and of one size, from the cache or read now.

    Raises `OvertoneError` for a source without images, and for images that can't be read or are
    smaller than the resolution, unless `skip_bad` leaves those out. Every process has to call it.
    """
    if channels not in (1, 3):
        raise OvertoneError(f"images are read with 1 or 3 channels, not {channels}.")
    what = f"{source.key} {resolution} {channels} {skip_bad} {RESIZE_RULE} {FORMAT}"
    digest = hashlib.sha256(what.encode()).hexdigest()[:20]
    folder, among = storage.cache_directory() / "images" / digest, processes()
    if among.any(not (folder / "index.json").exists()):
        # One process a machine reads; the others wait for it.
        if among.local_index == 0 and not (folder / "index.json").exists():
            storage.sweep(folder.parent, days=1)
            with storage.new_directory(folder, once=True) as temporary:
                _decode_into(temporary, source, resolution, channels, skip_bad)
        among.wait()
    index = storage.read_json(folder / "index.json")
    shape = (index["count"], channels, resolution, resolution)
    return ArrayData(
        source.name,
        np.memmap(folder / "images.bin", np.uint8, mode="r", shape=shape),
        np.fromfile(folder / "labels.bin", np.int64) if source.class_names else None,
        source.class_names,
        RESIZE_RULE,
        index["fingerprint"],
        index["bad"],
        index["conversions"],
        index["resized"],
    )


def read_item(item: Item, resolution: int, channels: int) -> tuple[np.ndarray, list[str]]:
    """An image as (channels, resolution, resolution) uint8, and what was done to read it.

    Raises `OvertoneError`, naming the image, if it can't be read or is too small.
    """
    try:
        image = ImageOps.exif_transpose(item.read())
        image, conversions = to_mode(image, "RGB" if channels == 3 else "L")
    except Exception as error:  # damaged files make Pillow raise almost anything
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"not {', '.join(FORMATS)}" if unknown else str(error)
        raise OvertoneError(f"{item.name} can't be read ({reason}).") from None
    side = min(image.size)
    if side < resolution:
        raise OvertoneError(
            f"{item.name} is {image.width} x {image.height}, smaller than the resolution"
            f" {resolution}."
        )
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if side != resolution:
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)
    else:
        image = image.crop(box)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), conversions


def to_mode(image: Image.Image, mode: str) -> tuple[Image.Image, list[str]]:
    """Any image as "RGB" or "L" with 8 bits, and what that took: transparency is laid on white,
    16 bits are scaled to 8, CMYK and the like converted, colour made grey or grey colour."""
    conversions = []
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known: convert it to 8 bits")
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8
        low, high = np.asarray(image).min(), np.asarray(image).max()
        if low < 0 or high > 65535:
            raise ValueError(f"whole numbers from {low} to {high}: convert it to 8 bits")
        image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
        conversions.append("16 bits scaled to 8")
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            conversions.append("transparency laid on white")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image).convert("RGB")
    if image.mode not in ("1", "L", "P", "RGB"):
        conversions.append(f"{image.mode} converted to RGB")
    if grey != (mode == "L"):
        conversions.append("grey made RGB" if grey else "colour made grey")
    return image.convert(mode), conversions


def read_all(
    items: Iterable[Item], resolution: int, channels: int, count: int | None = None
) -> Iterator[tuple[Item, tuple[np.ndarray, list[str]] | OvertoneError]]:
    """Read in a few threads (Pillow works outside Python's lock), in order, some ahead."""
    from rich.console import Console
    from rich.progress import track

    def read(item: Item) -> tuple[np.ndarray, list[str]] | OvertoneError:
        try:
            return read_item(item, resolution, channels)
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


def _decode_into(
    folder: Path, source: Source, resolution: int, channels: int, skip_bad: bool
) -> None:
    labels: list[int] = []
    bad: list[str] = []
    conversions: Counter[str] = Counter()
    digest = hashlib.sha256()
    sizes: dict[str, tuple[int, int]] = {}
    items = (measured(item, sizes) for item in source.items())
    resized = 0
    with (folder / "images.bin").open("wb") as file:
        for item, result in read_all(items, resolution, channels, source.count):
            size = sizes.pop(item.name, None)
            if isinstance(result, OvertoneError):
                bad.append(str(result))
                continue
            pixels, done = result
            conversions.update(done)
            resized += size != (resolution, resolution)
            labels.append(item.label or 0)
            file.write(pixels.tobytes())
            digest.update(pixels.tobytes())
    if bad and not (skip_bad and labels):
        more = f" {len(bad) - 3} more like it." if len(bad) > 3 else ""
        raise OvertoneError(
            f"{' '.join(bad[:3])}{more} Mend or remove them, or pass --skip-bad-images."
        )
    if not labels:
        raise OvertoneError(f"{source.name} has no images.")
    numbers = np.array(labels, np.int64)
    numbers.tofile(folder / "labels.bin")
    digest.update(numbers.tobytes())
    index = {"count": len(labels), "bad": bad, "conversions": dict(conversions)}
    index |= {"resized": resized}
    fingerprint = {"fingerprint": digest.hexdigest()[:16]}
    storage.write_json(folder / "index.json", index | fingerprint)


def _fingerprint(*parts: bytes) -> str:
    return hashlib.sha256(b"|".join(parts)).hexdigest()[:16]
