"""Batches of samples as ADM's tools write them: an .npz file of images in one array.

    arr_0    uint8 (count, height, width, channels), 1 or 3 channels
    arr_1    class labels (count,), whole numbers, if there are any

Images of the size that is asked for are read where they lie; others are cropped and resized as all
are (`reading.decode`), and what is packed is unpacked into the cache first.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from overtone import storage
from overtone.data.converting import MOST_PIXELS
from overtone.data.files import file_key
from overtone.data.images import ImageData, Pixels
from overtone.data.labels import MOST_CLASSES
from overtone.data.names import path_of
from overtone.data.npz import ArrayFile, StoredArray, reading, write_arrays
from overtone.data.reading import PLAIN, Item, Source, decode
from overtone.data.rules import Reading
from overtone.errors import OvertoneError
from overtone.launch import processes
from overtone.leftovers import sweep
from overtone.regular import open_regular, read_at
from overtone.sizes import Resolution, sides

SUFFIXES = (".npz", ".npy")
IMAGES, LABELS = "arr_0", "arr_1"
STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
"""what a reference of ADM's holds beside its images"""
FORMAT = 1
"""what the cache holds"""


def is_batch(name: str) -> bool:
    """Whether a name is that of a file of arrays."""
    path = path_of(name)
    return path.suffix.lower() in SUFFIXES and os.path.isfile(path)


def holds_images(name: str) -> bool:
    """Whether there are images in what a name is that of: not in a file of statistics alone."""
    if not is_batch(name):
        return True
    with reading(path_of(name)):
        return IMAGES in ArrayFile(path_of(name))


def open_batch(
    name: str, resolution: Resolution, channels: int, reading: Reading = PLAIN
) -> ImageData:
    """The images of a file of arrays as `open_data` opens them."""
    batch = Batch.of(name)
    _, height, width, planes = batch.rows.shape
    if (height, width, planes) == (*sides(resolution), channels):
        return BatchData(batch)
    return decode(batch.source(), resolution, channels, reading)


def batch_source(name: str) -> Source:
    """The images of a file of arrays, not decoded yet."""
    return Batch.of(name).source()


class Rows:
    """Images of one size in a file, as they are: `shape` is (count, height, width, channels).

    What was there when it was opened is read, or nothing: a file that is changed or cut short in
    the meantime is an error.
    """

    def __init__(self, file: Path, offset: int, shape: tuple[int, ...]) -> None:
        self.file, self.offset, self.shape = file, offset, shape
        self.stamp = _stamp(os.stat(file))

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Some of them, (count, height, width, channels)."""
        whole = np.empty((len(indices), *self.shape[1:]), np.uint8)
        size = whole[:1].nbytes
        with reading(self.file), open_regular(self.file) as file:
            same = _stamp(os.fstat(file.fileno())) == self.stamp
            for row, index in zip(whole, indices, strict=True):
                place = self.offset + range(self.shape[0])[index] * size
                same = same and read_at(file.fileno(), memoryview(row).cast("B"), place) == size
            if not same:
                raise ValueError("it has changed since it was opened")
        return whole

    def picture(self, index: int) -> Image.Image:
        (row,) = self.read([index])
        return Image.fromarray(row[:, :, 0] if row.shape[2] == 1 else row)


@dataclass(frozen=True)
class Batch:
    """A file of arrays that was found to hold images, and to be whole."""

    name: str
    key: str
    rows: Rows
    labels: np.ndarray | None
    fingerprint: str
    notes: Sequence[str]

    @classmethod
    def of(cls, name: str) -> Batch:
        """Raises `OvertoneError` for a file without images, with others than uint8, and for a
        damaged one, all of which is read the first time. Every process has to call it."""
        file = path_of(name)
        there = ArrayFile(file)
        images = _images(there)
        labels = _labels(there, images.shape[0]) if LABELS in there else None
        key = f"{file_key(file)} {FORMAT}"
        folder = _prepared(key, images, labels)
        rows = (folder / "rows.bin", 0) if images.packed else (file, images.offset)
        fingerprint = storage.read_json(folder / "index.json", dict)["fingerprint"]
        return cls(name, key, Rows(*rows, images.shape), labels, fingerprint, list(_notes(there)))

    @property
    def class_names(self) -> tuple[str, ...]:
        return () if self.labels is None else _numbers(self.labels)

    def source(self) -> Source:
        """The images, each to be read by itself."""
        count, read = self.rows.shape[0], self.rows.picture

        def items() -> Iterator[Item]:
            for number in range(count):
                label = None if self.labels is None else int(self.labels[number])
                yield Item(f"{self.name} row {number}", partial(read, number), label)

        return Source(self.name, self.key, items, count, self.class_names, self.notes)


class BatchData(ImageData):
    """A batch whose images have the size that is wanted, read where they are."""

    def __init__(self, batch: Batch) -> None:
        self.name, self.rows = batch.name, batch.rows
        count, height, width, self.channels = batch.rows.shape
        self.resolution = height if height == width else (height, width)
        labels = batch.labels
        self.labels = np.zeros(count, np.int64) if labels is None else labels
        self.class_names = batch.class_names
        self.fingerprint, self.notes = batch.fingerprint, batch.notes
        self.resize_rule = PLAIN.rule(height) if height == width else "none"

    def __len__(self) -> int:
        return self.rows.shape[0]

    def fetch(self, indices: Sequence[int]) -> tuple[Pixels, Int[Tensor, " batch"]]:
        rows = self.rows.read(indices)
        return torch.from_numpy(_channels_first(rows)), self.classes(indices)

    def classes(self, indices: Sequence[int]) -> Int[Tensor, " batch"]:
        return torch.from_numpy(self.labels[list(indices)])

    def class_counts(self) -> Sequence[int]:
        return np.bincount(self.labels, minlength=self.num_classes).tolist()


def write_batch(path: Path, batches: Iterable[tuple[Pixels, Tensor | None]], count: int) -> None:
    """Images as a batch of ADM's, in constant memory; the file appears whole or not at all.

    Arguments:
        path: the .npz file.
        batches: uint8 images (batch, channels, height, width) and their class labels (batch,), or
            None for all of them.
        count: the number of images in all, which the file begins with.

    Raises `OvertoneError` for another suffix (`np.load` and `open_data` go by it) and for a file
    that can't be written, `ValueError` for another number of images, and for images of several
    sizes.
    """
    path = Path(path)
    if path.suffix.lower() != ".npz":
        raise OvertoneError(f"images in one array go into an .npz file, not into {path}.")
    writer = _Writer(iter(batches), count)
    first = next(writer.batches, None)
    if first is None or not len(first[0]):
        raise ValueError("there are no images to write")
    _, channels, height, width = first[0].shape

    def write(add: Any) -> None:
        shape = count, height, width, channels
        add(IMAGES, np.uint8, shape, writer.parts(first))
        if writer.labels:
            add(LABELS, np.int64, (count,), [np.concatenate(writer.labels).tobytes()])

    write_arrays(path, write)


class _Writer:
    """Batches on their way into a file, checked."""

    def __init__(self, batches: Iterator[tuple[Tensor, Tensor | None]], count: int) -> None:
        self.batches, self.count = batches, count
        self.labels: list[np.ndarray] = []

    def parts(self, first: tuple[Tensor, Tensor | None]) -> Iterator[bytes]:
        shape, labelled, done = first[0].shape[1:], first[1] is not None, 0
        for pixels, labels in chain([first], self.batches):
            done += len(pixels)
            if pixels.shape[1:] != shape or pixels.dtype != torch.uint8:
                raise ValueError(f"a batch of images is {pixels.dtype} {tuple(pixels.shape)}")
            if labelled != (labels is not None) or done > self.count:
                raise ValueError(f"{done} images for {self.count}, with labels or without")
            if labels is not None:
                self.labels.append(labels.reshape(len(pixels)).cpu().numpy().astype(np.int64))
            yield pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy().tobytes()
        if done != self.count:
            raise ValueError(f"{done} images came, and {self.count} were to be written")


def _images(there: ArrayFile) -> StoredArray:
    """The array of images. Raises `OvertoneError` where there is none."""
    if IMAGES not in there:
        names = ", ".join(there.names[:5]) or "nothing"
        statistics = {"mu", "sigma"} <= set(there.names)
        advice = (
            "it is a reference of features, to compare with and not to look at"
            if statistics
            else "np.savez(file, images) writes one"
        )
        raise OvertoneError(f"{there.file} holds {names}, and no images as {IMAGES}: {advice}.")
    images = there.array(IMAGES)
    shape, where = images.shape, f"{there.file}: {IMAGES}"
    if images.dtype != np.uint8:
        raise OvertoneError(
            f"{where} is of {images.dtype}: images are of uint8, from 0 to 255. Round them to it."
        )
    if len(shape) != 4 or shape[3] not in (1, 3):
        advice = " Put the channels last." if len(shape) == 4 and shape[1] in (1, 3) else ""
        raise OvertoneError(
            f"{where} has the shape {shape}: it is (count, height, width, channels), with 1 or 3"
            f" channels.{advice}"
        )
    if 0 in shape:
        raise OvertoneError(f"{where} has the shape {shape}, and so no images.")
    if shape[1] * shape[2] > MOST_PIXELS:
        raise OvertoneError(f"{where} has images of {shape[1]:,} x {shape[2]:,} pixels: too many.")
    if images.fortran:
        raise OvertoneError(
            f"{where} is in Fortran's order: write it as np.ascontiguousarray(images)."
        )
    return images


def _labels(there: ArrayFile, count: int) -> np.ndarray:
    """The class of each image, int64."""
    labels, where = there.array(LABELS), f"{there.file}: {LABELS}"
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise OvertoneError(
            f"{where} is of {labels.dtype} with the shape {labels.shape}: it is one whole number"
            f" for each of {count:,} images, its class."
        )
    numbers = labels.read()
    low, high = int(numbers.min()), int(numbers.max())
    if not 0 <= low <= high < MOST_CLASSES:
        raise OvertoneError(
            f"{where} goes from {low} to {high}: the numbers of classes are in"
            f" [0, {MOST_CLASSES - 1}]."
        )
    return numbers.astype(np.int64)


def _numbers(labels: np.ndarray) -> tuple[str, ...]:
    """The names of numbered classes, as of a `dataset.json`."""
    return tuple(map(str, range(int(labels.max()) + 1)))


def _notes(there: ArrayFile) -> Iterator[str]:
    others = [name for name in there.names if name not in (IMAGES, LABELS)]
    statistics = [name for name in others if name in STATISTICS]
    rest = [name for name in others if name not in STATISTICS]
    if statistics:
        yield f"{', '.join(statistics)} beside the images are statistics, and no images"
    if rest:
        more = ", ..." if len(rest) > 5 else ""
        yield f"{', '.join(rest[:5])}{more} beside the images are not read"


def _prepared(key: str, images: StoredArray, labels: np.ndarray | None) -> Path:
    """A folder of the cache with the fingerprint of a batch, and its images where they are packed.

    The fingerprint is that of the same images in any other place, once decoded.
    """
    name = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:20]
    folder, among = storage.cache_directory() / "batches" / name, processes()
    if among.is_main and folder.exists() and not _is_whole(folder, images):
        storage.remove_directory(folder)
    among.wait()
    if among.any(not folder.exists()):
        if among.local_index == 0 and not folder.exists():
            sweep(folder.parent, days=1)
            with storage.new_directory(folder, once=True) as temporary:
                _prepare(temporary, images, labels)
        among.wait()
    return folder


def _is_whole(folder: Path, images: StoredArray) -> bool:
    try:
        told = storage.read_json(folder / "index.json", dict)
        size = (folder / "rows.bin").stat().st_size if images.packed else images.nbytes
        return isinstance(told.get("fingerprint"), str) and size == images.nbytes
    except (OvertoneError, OSError):
        return False


def _prepare(folder: Path, images: StoredArray, labels: np.ndarray | None) -> None:
    digest = hashlib.sha256()
    rows = (folder / "rows.bin").open("wb") if images.packed else None
    try:
        for part in _in_rows(images):
            if rows is not None:
                rows.write(part.tobytes())
            digest.update(_channels_first(part).tobytes())
    finally:
        if rows is not None:
            rows.close()
    numbers = np.zeros(images.shape[0], np.int64) if labels is None else labels
    digest.update(numbers.tobytes())
    storage.write_json(folder / "index.json", {"fingerprint": digest.hexdigest()[:16]})


def _in_rows(images: StoredArray) -> Iterator[np.ndarray]:
    """The images, some at a time, in the order of the file."""
    size = images.nbytes // images.shape[0]
    rest = bytearray()
    for part in images.chunks():
        rest += part
        whole = len(rest) // size
        if whole:
            rows = np.frombuffer(bytes(rest[: whole * size]), np.uint8)
            yield rows.reshape(whole, *images.shape[1:])
            del rest[: whole * size]


def _channels_first(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.transpose(0, 3, 1, 2))


def _stamp(own: os.stat_result) -> tuple[int, ...]:
    return own.st_ino, own.st_size, own.st_mtime_ns
