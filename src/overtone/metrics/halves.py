"""Intervals of scores, by random halves of the images.

A score of n images is compared with the scores of halves of them, drawn without replacement. For a
score that is smooth in the distribution of the features, that of n / 2 images scatters about that
of all n with the variance with which that of n images scatters about the truth,

    var(2 / n) - var(1 / n) = var(1 / n),

and lies above it by the bias of n images, where that is b / n (Efron & Stein 1981; Shao & Wu 1989,
"A general theory for jackknife variance estimation": the delete-half jackknife). So

    extrapolated = 2 score - mean(halves)

is unbiased up to 1 / n^2, which is the extrapolation to infinitely many images that Chong & Forsyth
2020 (arXiv 1911.07023) fit over many sizes. Unlike a bootstrap with replacement a half never holds
an image twice, which distances to neighbours and unbiased kernel sums would take for a copy.

Halves come in pairs, each with its complement, whose deviations d and -d are opposite. To second
order a score is s + g.d + d'Bd. With S the covariance of d, half the difference of a pair has the
variance g'Sg with g estimated, which is too large by 4 tr BSBS; half its sum has 2 tr BSBS; and the
score of all images has g'Sg + 2 tr BSBS. So

    standard error^2 = variance((a - b) / 2) - variance((a + b) / 2)    over the pairs (a, b).

The second term matters where the images are few for the number of features.

A squared distance s scatters the more the larger it is: the part g'Sg of its variance is about a s.
Its interval holds the distances s' from which the one that was measured is within reach (Wilson's
way for shares), (s - s')^2 <= t^2 (a s' + 2 tr BSBS), which leans towards larger ones.
They are a function of the images' number and classes and of nothing else: two models' scores on the
same seeds are resampled alike, and the difference of their scores has an interval of its own. Each
half holds half of the images of each class. Where seeds are given classes in turn, the numbers of
images in the classes are no accident, and halves in which they were would differ by them most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from overtone.errors import OvertoneError

STRATUM = 1024
"""images of which each half holds one half, in the order in which they come"""
LEAST = 16
"""images, real ones as well, without which there are no intervals"""
REPLICATES = 200
_SEED = 19


class Halves:
    """Which of `count` images are in which halves.

    A column is a set of images: the first is all of them, then come `replicates` halves, of which
    the second part are the complements of the first. `classes` are those that the images have by
    design, if they do.
    """

    def __init__(
        self,
        count: int,
        replicates: int = REPLICATES,
        classes: Int[Tensor, " images"] | None = None,
    ) -> None:
        self.count = count
        self.pairs = replicates // 2
        self.columns = 1 + 2 * self.pairs
        generator = torch.Generator().manual_seed(_SEED)
        self._bits = np.zeros((count, -(-self.pairs // 8)), np.uint8)
        for stratum in _strata(count, classes):
            half = _half(len(stratum), self.pairs, generator)
            self._bits[stratum.numpy()] = np.packbits(half, axis=1)
        first = np.unpackbits(self._bits, axis=1, count=self.pairs).sum(axis=0)
        numbers = np.concatenate(([count], first, count - first))
        self.numbers: Float[Tensor, " columns"] = torch.from_numpy(numbers).double()
        """how many images are in each column"""

    def of(self, images: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape columns"]:
        """1 where an image is in a column, 0 elsewhere, float32."""
        bits = self._bits[images.numpy()]
        first = torch.from_numpy(np.unpackbits(bits, axis=-1, count=self.pairs)).float()
        return torch.cat((torch.ones(*first.shape[:-1], 1), first, 1 - first), dim=-1)

    def block(self, start: int, stop: int) -> Float[Tensor, "block columns"]:
        """The same for the images `start` to `stop`, float64."""
        return self.of(torch.arange(start, min(stop, self.count))).double()


def _strata(count: int, classes: Tensor | None) -> Iterator[Tensor]:
    """The numbers of images that are halved together: neighbours of one class."""
    if classes is None:
        groups: Sequence[Tensor] = (torch.arange(count),)
    else:
        groups = classes.argsort(stable=True).split(classes.unique(return_counts=True)[1].tolist())
    for group in groups:
        yield from group.split(STRATUM)


def _half(count: int, pairs: int, generator: torch.Generator) -> Tensor:
    """A half of `count` images in each of `pairs` columns; of an odd number now more, now less."""
    order = torch.rand(count, pairs, generator=generator).argsort(dim=0).argsort(dim=0)
    more = torch.randint(0, 2, (pairs,), generator=generator) * (count % 2)
    return order < count // 2 + more


class Measured(NamedTuple):
    """A score, and how well it is known."""

    value: float
    error: float | None = None
    """The standard error of the score. None means that there are too few images."""
    bias: float | None = None
    """By how much the score is expected to exceed that of infinitely many images. None stands for
    scores that are unbiased, or whose bias is not known."""
    degrees: int = 0
    """The degrees of freedom of the standard error."""
    growth: float = 0.0
    """By how much the variance grows with the score, for squared distances."""
    lowest: float = -math.inf
    highest: float = math.inf

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval that holds the score of as many images with a probability of 95 %."""
        if self.error is None:
            return None
        reach = student(self.degrees)
        lean = reach**2 * self.growth / 2
        half = math.hypot(reach * self.error, lean)
        low, high = self.value + lean - half, self.value + lean + half
        # The value itself, which may lie beyond by its scatter, is always within.
        ends = min(self.lowest, self.value), max(self.highest, self.value)
        return max(low, ends[0]), min(high, ends[1])

    def extrapolated(self) -> Measured:
        """The score of infinitely many images, where its bias is known."""
        if self.bias is None:
            return self
        return self._replace(value=self.value - self.bias, bias=0.0)


def measured(
    columns: Float[Tensor, " columns"],
    *,
    biased: bool = False,
    squared: bool = False,
    lowest: float = -math.inf,
    highest: float = math.inf,
) -> Measured:
    """A score from its value in each column of `Halves`; `squared` says that it is the square of a
    distance."""
    value, halves = float(columns[0]), columns[1:].double()
    if len(halves) < 4 or not torch.isfinite(halves).all():
        return Measured(value, lowest=lowest, highest=highest)
    bias = float(halves.mean()) - value if biased else None
    first, second = halves.chunk(2)
    odd, even = (first - second) / 2, (first + second) / 2
    by_first, by_second = float(odd.var()), float(even.var())
    # The second is at most half of the first, but for the scatter of few halves.
    error, growth = max(by_first - by_second, by_first / 2) ** 0.5, 0.0
    if squared and error:
        score = max(value - (bias or 0.0), by_first**0.5)
        growth = max(by_first - 2 * by_second, 0.0) / score
    return Measured(value, error, bias, len(first), growth, lowest, highest)


def difference(
    first: Float[Tensor, " columns"], second: Float[Tensor, " others"], *, biased: bool = False
) -> Measured:
    """The first score minus the second, of images from the same seeds beside the same real ones.

    Where a score has a bias, it is taken off both.
    """
    if len(first) != len(second):
        raise OvertoneError("scores of different numbers of halves can't be compared in pairs.")
    return measured(first - second, biased=biased).extrapolated()


def student(degrees: int) -> float:
    """The 97.5 % quantile of Student's t, to 0.001 from 10 degrees of freedom on (Fisher & Cornish
    1960's expansion about the normal quantile)."""
    z = 1.959964
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )
