"""The image data contract, and folders of images.

A folder is decoded once: every image is read, cropped, resized and written to a memory map in the
cache, so that an unreadable file is found before any training time is spent and never again.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from overtone import storage
from overtone.errors import OvertoneError

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
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

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fetch(self, indices: Sequence[int]) -> tuple[Pixels, Int[Tensor, " batch"]]:
        """The images, uint8, and their class labels (all 0 where there are no classes)."""

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
    ) -> None:
        self.name = name
        self.images = images
        self.labels = np.zeros(len(images), np.int64) if labels is None else labels
        self.channels, self.resolution = images.shape[1:3]
        self.class_names = tuple(class_names)
        self.resize_rule = resize_rule
        self.left_out = left_out
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
            state["images"] = (str(self.images.filename), len(self.images))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["images"], tuple):
            file, count = state["images"]
            state["images"] = np.load(file, mmap_mode="r")[:count]
        self.__dict__.update(state)

    def fetch(self, indices: Sequence[int]) -> tuple[Pixels, Int[Tensor, " batch"]]:
        rows = np.asarray(indices)
        return torch.from_numpy(self.images[rows]), torch.from_numpy(self.labels[rows])


def to_unit(pixels: Pixels) -> Float[Tensor, "batch channels height width"]:
    """uint8 to [-1, 1], float32."""
    return pixels.float() / 127.5 - 1


def to_pixels(images: Float[Tensor, "batch channels height width"]) -> Pixels:
    """[-1, 1] to uint8, rounded and clipped; the inverse of `to_unit`."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def open_folder(
    root: Path, resolution: int, channels: int, *, split: str = "train", skip_bad: bool = False
) -> ArrayData:
    """A folder of images as `ArrayData`, class = sub-folder.

    Images directly in the folder have no class. A folder that has `train` and `test` in it is
    taken as the two splits. Raises `OvertoneError` for an empty folder, and for images that can't
    be read or are smaller than the resolution, unless `skip_bad` leaves those out.
    """
    if has_splits(root):
        root = root / split
    elif split != "train":
        raise OvertoneError(f"{root} has no test split: give it sub-folders 'train' and 'test'.")
    files = sorted(f for f in root.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        raise OvertoneError(
            f"{root} holds no images (looked for {', '.join(sorted(SUFFIXES))}), sub-folders too."
        )
    classes = sorted({f.relative_to(root).parts[0] for f in files if f.parent != root})
    if classes and any(f.parent == root for f in files):
        stray = next(f for f in files if f.parent == root)
        raise OvertoneError(
            f"{root} has images in sub-folders (classes) and beside them ({stray.name}):"
            " move those into a sub-folder, or away."
        )
    if channels not in (1, 3):
        raise OvertoneError(f"images are read with 1 or 3 channels, not {channels}.")
    folder = _decoded(root, files, resolution, channels, skip_bad)
    index = storage.read_json(folder / "index.json")
    images = np.load(folder / "images.npy", mmap_mode="r")[: index["count"]]
    labels = None
    if classes:
        number = {name: i for i, name in enumerate(classes)}
        kept = [files[i] for i in index["rows"]]
        labels = np.array([number[f.relative_to(root).parts[0]] for f in kept], np.int64)
    names = [f"{f.relative_to(root)} {f.stat().st_size}" for f in files]
    return ArrayData(
        str(root),
        images,
        labels,
        classes,
        RESIZE_RULE,
        _fingerprint("\n".join(names).encode(), str(index["rows"]).encode()),
        index["bad"],
    )


def has_splits(root: Path) -> bool:
    """Whether a folder holds a training and a test split, rather than classes."""
    return (root / "train").is_dir() and (root / "test").is_dir()


def read_image(file: Path, resolution: int, channels: int) -> np.ndarray:
    """One file as (channels, resolution, resolution) uint8; `OvertoneError` names it otherwise."""
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8
                image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
            image = image.convert("RGB" if channels == 3 else "L")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OvertoneError(f"{file} can't be read ({error}).") from None
    side = min(image.size)
    if side < resolution:
        raise OvertoneError(
            f"{file} is {image.width} x {image.height}, smaller than the resolution {resolution}."
        )
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if side != resolution:
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)
    else:
        image = image.crop(box)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _decoded(root: Path, files: list[Path], resolution: int, channels: int, skip_bad: bool) -> Path:
    """The cache directory with the images of `files`, made if it is not there."""
    digest = hashlib.sha256(f"{resolution} {channels} {skip_bad} {RESIZE_RULE}".encode())
    for file in files:
        stat = file.stat()
        digest.update(f"{file.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}".encode())
    folder = storage.cache_directory() / "images" / digest.hexdigest()[:20]
    if (folder / "index.json").exists():
        return folder
    with storage.new_directory(folder) as temporary:
        shape = (len(files), channels, resolution, resolution)
        images = np.lib.format.open_memmap(
            temporary / "images.npy", mode="w+", dtype=np.uint8, shape=shape
        )
        rows: list[int] = []
        bad: list[str] = []
        for row, result in enumerate(_read_all(files, resolution, channels)):
            if isinstance(result, OvertoneError):
                bad.append(str(result))
            else:
                images[len(rows)] = result
                rows.append(row)
        if bad and not (skip_bad and rows):
            more = f" {len(bad) - 3} more like it." if len(bad) > 3 else ""
            raise OvertoneError(
                f"{' '.join(bad[:3])}{more} Mend or remove them, or pass --skip-bad-images."
            )
        images.flush()
        storage.write_json(temporary / "index.json", {"count": len(rows), "rows": rows, "bad": bad})
    return folder


def _read_all(
    files: list[Path], resolution: int, channels: int
) -> Iterator[np.ndarray | OvertoneError]:
    """Decode in a few threads (Pillow works outside Python's lock), in the order of the files."""
    from rich.progress import track

    def read(file: Path) -> np.ndarray | OvertoneError:
        try:
            return read_image(file, resolution, channels)
        except OvertoneError as error:
            return error

    with ThreadPoolExecutor() as pool:
        quick = len(files) < 2000
        results = pool.map(read, files)
        yield from track(results, "reading images", len(files), disable=quick, transient=True)


def _fingerprint(*parts: bytes) -> str:
    return hashlib.sha256(b"|".join(parts)).hexdigest()[:16]
