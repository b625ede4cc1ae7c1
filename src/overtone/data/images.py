"""The image data contract: images of one size, by index, with their classes."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from overtone.errors import OvertoneError, counted
from overtone.processes.noise import SeededNoise
from overtone.sizes import Resolution

SHOWN_CLASSES = 10

Pixels = UInt8[Tensor, "batch channels height width"]


class ImageData(ABC):
    """Images of one size, by index, with their classes where they have any."""

    name: str
    resolution: Resolution
    channels: int
    class_names: tuple[str, ...] = ()  # empty: no classes
    resize_rule: str = "none"
    stored: bool = True  # as it is fetched: nothing has to be decoded or computed
    endless: bool = False  # any index gives a new image; len() is only an upper end
    fingerprint: str  # changes when the images or their classes do
    left_out: Sequence[str] = ()  # images that were asked to be skipped, and why
    conversions: Mapping[str, int] = {}  # what was done to how many images to read them
    resized: int = 0  # images that had another size, and were cropped or made smaller
    notes: Sequence[str] = ()  # sentences on what was passed over
    contents: np.ndarray | None = (
        None  # (count,) uint64: digests of the pictures as they were stored
    )

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

    def class_counts(self) -> Sequence[int] | None:
        """The number of images in each class, where that is known without reading them."""
        return None

    def told(self) -> Iterator[str]:
        """Lines on what is there, and on what was done to read it."""
        if self.left_out:
            yield f"left out {counted(len(self.left_out), 'image')}. The first: {self.left_out[0]}"
        if self.conversions:
            done = (f"{what}: {counted(n, 'image')}" for what, n in self.conversions.items())
            yield f"{self.name}: {'; '.join(done)}"
        counts = self.class_counts() if self.class_names else None
        missing = without_images(self.class_names, counts) if counts is not None else ()
        yield from (f"{self.name}: {note}" for note in (*self.notes, *missing))
        if not self.endless:
            yield f"{self.name}: {counted(len(self), 'image')}, {self._classes_told()}"

    def _classes_told(self) -> str:
        counts = self.class_counts()
        named = [
            name if counts is None else f"{name} ({counts[number]:,})"
            for number, name in enumerate(self.class_names[:SHOWN_CLASSES])
        ]
        more = ", ..." if self.num_classes > len(named) else ""
        many = counted(self.num_classes, "class", "classes")
        return f"{many}: {', '.join(named)}{more}" if named else "no classes"


def without_images(names: Sequence[str], counts: Sequence[int]) -> Iterator[str]:
    """A sentence on the classes that have none, if there are any."""
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty:
        shown = ", ".join(empty[:SHOWN_CLASSES]) + (", ..." if len(empty) > SHOWN_CLASSES else "")
        have = "class has" if len(names) == 1 else "classes have"
        yield f"{len(empty):,} of {len(names):,} {have} no images ({shown})"


class ArrayData(ImageData):
    """Images held in one array, in memory or mapped from a file.

    `images` is (count, channels, height, width) uint8, `labels` (count,) or None.
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
        notes: Sequence[str] = (),
        contents: np.ndarray | None = None,
    ) -> None:
        self.name = name
        self.images = images
        self.contents = contents
        self.labels = np.zeros(len(images), np.int64) if labels is None else labels
        _, self.channels, height, width = images.shape
        self.resolution = height if height == width else (height, width)
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
        self.notes = notes

    def class_counts(self) -> Sequence[int]:
        return np.bincount(self.labels, minlength=self.num_classes).tolist()

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


def digest_of_array(image: np.ndarray) -> int:
    """64 bits that tell an image, (height, width, channels) uint8, from others. They are those of
    `reading.digest_of_picture` of the same image."""
    height, width = image.shape[:2]
    digest = hashlib.blake2b(f"{width} x {height}".encode(), digest_size=8)
    digest.update(np.ascontiguousarray(image).tobytes())
    return int.from_bytes(digest.digest(), "big")


def _fingerprint(*parts: bytes) -> str:
    return hashlib.sha256(b"|".join(parts)).hexdigest()[:16]
