"""Where feature vectors are kept: in a file, not in memory."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from overtone import storage
from overtone.launch import ALONE, Processes
from overtone.leftovers import TEMPORARY


class FeatureFile:
    """Feature vectors in a file, mapped into memory; the images they come from are not kept.

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
            self._file.write(vectors.float().contiguous().numpy().tobytes())

    def vectors(self) -> Float[Tensor, "images dims"]:
        """All vectors, in the order of the images. Every process has to call it."""
        self._file.close()
        self.among.wait()
        if self.among.is_main:
            self._merge()
        self.among.wait()
        return load_features(self.whole, self.dims)

    def _merge(self) -> None:
        if self.among.count == 1:
            os.replace(self.parts[0], self.whole)
            return
        maps = [load_features(part, self.dims) for part in self.parts]
        with self.whole.open("wb") as file:
            for row in range(max(map(len, maps))):
                for part in maps:
                    if row < len(part):
                        file.write(part[row].numpy().tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        for path in (self.whole, self.parts[self.among.index]):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def load_features(path: Path, dims: int) -> Float[Tensor, "images dims"]:
    """The vectors of a file, read when they are used."""
    count = path.stat().st_size // (4 * dims)
    if not count:
        return torch.empty(0, dims)
    return torch.from_file(str(path), shared=False, size=count * dims).view(count, dims)
