"""Where feature vectors are kept: in files, not in memory."""

from __future__ import annotations

import contextlib
import os
import uuid
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from overtone import storage
from overtone.launch import ALONE, Processes
from overtone.leftovers import TEMPORARY
from overtone.regular import read_at

BLOCK = 1024
"""vectors at a time"""


class Vectors:
    """Feature vectors in a file, read block by block; memory stays constant in their number.

    The file is open as long as this lives, and may be deleted meanwhile.
    """

    def __init__(self, path: Path, dims: int) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self.close = weakref.finalize(self, os.close, self._file)
        self.dims = dims
        self.count = os.fstat(self._file).st_size // (4 * dims)

    def __len__(self) -> int:
        return self.count

    def read(self, start: int, stop: int) -> Float[Tensor, "block dims"]:
        """The vectors `start` to `stop`, float32."""
        out = np.empty((max(min(stop, self.count) - start, 0), self.dims), np.float32)
        read_at(self._file, out.reshape(-1).view(np.uint8).data, 4 * self.dims * start)
        return torch.from_numpy(out)

    def rows(self, indices: Sequence[int]) -> Float[Tensor, "some dims"]:
        """The vectors with these numbers."""
        out, row = np.empty((len(indices), self.dims), np.float32), 4 * self.dims
        for place, index in enumerate(indices):
            read_at(self._file, out[place].view(np.uint8).data, row * int(index))
        return torch.from_numpy(out)


class Held(Vectors):
    """Feature vectors that are in memory already."""

    def __init__(self, vectors: Float[Tensor, "images dims"]) -> None:
        self.vectors = vectors
        self.count, self.dims = vectors.shape

    def read(self, start: int, stop: int) -> Float[Tensor, "block dims"]:
        return self.vectors[start:stop]

    def rows(self, indices: Sequence[int]) -> Float[Tensor, "some dims"]:
        return self.vectors[torch.as_tensor(indices)]


def blocks(count: int, size: int = BLOCK) -> Iterator[tuple[int, int]]:
    """(start, stop) of the blocks that `count` vectors are read in."""
    for start in range(0, count, size):
        yield start, min(start + size, count)


class FeatureFile:
    """A file that feature vectors are added to; the images they come from are not kept.

    Each process adds those of its share, `Processes.share` of the images; `vectors()` puts them
    back in order. Memory stays constant in the number of images, which need not be known. After
    the `with` block the files are gone; vectors that were asked for stay readable.
    """

    def __init__(self, folder: Path, dims: int, among: Processes = ALONE) -> None:
        self.dims = dims
        self.among = among
        with storage.explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        name = among.gather(uuid.uuid4().hex)[0]
        self.whole = folder / f"{TEMPORARY}{name}"
        self.parts = [Path(f"{self.whole}-{index}") for index in range(among.count)]
        with storage.explained(folder):
            self._file = self.parts[among.index].open("wb")

    def add(self, vectors: Float[Tensor, "batch dims"]) -> None:
        """Append the vectors of further images of this process's share."""
        with storage.explained(self.whole.parent):
            self._file.write(vectors.float().contiguous().numpy().data)

    def vectors(self) -> Vectors:
        """All vectors, in the order of the images. Every process has to call it."""
        with storage.explained(self.whole.parent):
            self._file.close()
        self.among.wait()
        if self.among.is_main:
            with storage.explained(self.whole.parent):
                self._merge()
        self.among.wait()
        return Vectors(self.whole, self.dims)

    def _merge(self) -> None:
        if self.among.count == 1:
            os.replace(self.parts[0], self.whole)
            return
        parts = [Vectors(path, self.dims) for path in self.parts]
        with self.whole.open("wb") as file:
            for start, stop in blocks(max(map(len, parts)), BLOCK // len(parts) or 1):
                read = [part.read(start, stop) for part in parts]
                # Part r holds images r, r + parts, ...: dealt out again they are in order.
                for row in range(len(read[0])):
                    file.writelines(part[row].numpy().data for part in read if row < len(part))
        for part in parts:
            part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        for path in (self.whole, self.parts[self.among.index]):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
