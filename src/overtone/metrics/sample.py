"""One side of a comparison: the features of some images, and the halves they are resampled by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from overtone.metrics.halves import Halves
from overtone.metrics.parts import CLASSES, VECTORS
from overtone.metrics.vectors import Held, Vectors, blocks

NUMBERS = 2**19
"""numbers that a sum over halves holds at a time, outside of its result"""


Made = TypeVar("Made")
Sums = tuple[Tensor, ...]
"""number, sum and sum of outer products of vectors, by column"""


class Moments(NamedTuple):
    """Mean and covariance of the images in some columns, in float64."""

    mean: Float[Tensor, "columns dims"]
    covariance: Float[Tensor, "columns dims dims"]


class Sample:
    """The features of the images on one side, by part; `halves` says which are in which column.

    Each part is a `Vectors`, (images, dims). If the classes are among them, each half holds half of
    each.
    """

    def __init__(self, parts: Mapping[str, Vectors], replicates: int) -> None:
        self.parts = dict(parts)
        self.count = len(next(iter(self.parts.values())))
        classes = None
        if CLASSES in self.parts:
            classes = self.parts[CLASSES].read(0, self.count)[:, 0].long()
        self.halves = Halves(self.count, replicates, classes)
        self._made: dict[str, Any] = {}

    def __len__(self) -> int:
        return self.count

    @property
    def columns(self) -> int:
        return self.halves.columns

    def dims(self, part: str) -> int:
        """How many numbers an image has in a part."""
        return self.parts[part].dims

    def blocks(
        self, part: str, size: int = 1024
    ) -> Iterator[tuple[Float[Tensor, "block dims"], Float[Tensor, "block columns"]]]:
        """The vectors of a part in float64, and in which columns each is."""
        vectors = self.parts[part]
        for start, stop in blocks(self.count, size):
            yield vectors.read(start, stop).double(), self.halves.block(start, stop)

    def totals(
        self, part: str, of: Callable[[Tensor], Tensor] = lambda vectors: vectors
    ) -> Float[Tensor, "columns numbers"]:
        """The sum over the images in each column of what `of` makes of their vectors."""
        return sum(
            (inside.T @ of(vectors) for vectors, inside in self.blocks(part)), torch.zeros(1)
        )

    @property
    def numbers(self) -> Float[Tensor, " columns"]:
        """How many images are in each column."""
        return self.halves.numbers

    def whole(self, part: str) -> Moments:
        """Mean and covariance of all images, as those of one column."""
        centre = self._centre(part)
        return _moments(self._sums(part, slice(0, 1), centre), centre)

    def chunks(self, part: str) -> Iterator[slice]:
        """Pairs of halves whose covariances fit in memory together."""
        step, pairs = max(1, 2 * NUMBERS // self.dims(part) ** 2), self.halves.pairs
        for at in range(0, pairs, step):
            yield slice(at, min(at + step, pairs))

    def pairs(self, part: str, pairs: slice) -> Moments:
        """Means and covariances of some halves, then of their complements, whose sums are those of
        all images without the halves'."""
        centre = self._centre(part)
        whole = self.once(f"sums {part}", lambda: self._sums(part, slice(0, 1), centre))
        first = self._sums(part, slice(1 + pairs.start, 1 + pairs.stop), centre)
        both = (torch.cat((own, of_all - own)) for of_all, own in zip(whole, first, strict=True))
        return _moments(tuple(both), centre)

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What several scores need of the sample, made for the first of them and kept."""
        if name not in self._made:
            self._made[name] = make()
        return cast(Made, self._made[name])

    def _centre(self, part: str) -> Tensor:
        """Some vector near the mean: sums of squares about it lose no digits."""
        return self.parts[part].read(0, 1024).double().mean(dim=0)

    def _sums(self, part: str, columns: slice, centre: Tensor) -> Sums:
        """Number, sum and sum of outer products of the vectors in some columns."""
        dims = self.dims(part)
        count = columns.stop - columns.start
        number = torch.zeros(count, dtype=torch.float64)
        total = torch.zeros(count, dims, dtype=torch.float64)
        outer = torch.zeros(count, dims, dims, dtype=torch.float64)
        held_at_a_time = max(16, NUMBERS // (count * dims + 2 * self.columns))
        for vectors, inside in self.blocks(part, held_at_a_time):
            vectors, inside = vectors - centre, inside[:, columns]
            number += inside.sum(dim=0)
            total += inside.T @ vectors
            weighted = inside.T[:, None] * vectors.T  # (columns, dims, block)
            outer.baddbmm_(weighted, vectors.expand(count, -1, -1))
        return number, total, outer


def _moments(sums: Sums, centre: Tensor) -> Moments:
    number, total, outer = sums
    mean = total / number[:, None]
    spread = outer - number[:, None, None] * mean[:, :, None] * mean[:, None, :]
    return Moments(mean + centre, spread / (number - 1)[:, None, None])


def held(vectors: Float[Tensor, "images dims"], part: str = VECTORS, replicates: int = 0) -> Sample:
    """A sample of one part that is in memory."""
    return Sample({part: Held(vectors)}, replicates)
