"""Scores of neighbourhoods: precision and recall, density and coverage.

The manifold of a set of vectors is taken to be the union of balls about each, which reach to its
k-th neighbour in the set.

    precision   share of fake images within a ball of the real ones, k = 3
    recall      share of real images within a ball of the fake ones, k = 3
                (Kynkäänniemi et al. 2019, arXiv 1904.06991)
    density     balls of real images that a fake one lies in, on average, over k = 5
    coverage    share of real images whose ball holds a fake one, k = 5
                (Naeem et al. 2020, arXiv 2002.09797)

In halves of the images the balls are larger: the k-th neighbour within the half is searched among
the nearest `SEARCHED` of all. One ball in 10^5 has it farther out, and reaches to the last of them.

Distances are float64, in blocks of vectors. Each pair of blocks is formed once: within a sample for
both of its vectors and for all scores, and across samples for both of a score's numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from overtone.metrics.parts import VECTORS
from overtone.metrics.sample import Sample, held
from overtone.metrics.vectors import blocks

SEARCHED = 32
PAIRS = 2**11
"""pairs of a vector and a ball that are looked at at a time"""


class Nearest(NamedTuple):
    """The nearest other vectors of each vector of a sample, rising."""

    away: Float[Tensor, "images searched"]
    who: Int[Tensor, "images searched"]


def precision_recall(
    real: Float[Tensor, "real dims"], fake: Float[Tensor, "fake dims"], neighbours: int = 3
) -> tuple[float, float]:
    """Precision and recall of two whole sets of vectors."""
    precision, recall = precisions_recalls(held(real), held(fake), neighbours)
    return float(precision), float(recall)


def density_coverage(
    real: Float[Tensor, "real dims"], fake: Float[Tensor, "fake dims"], neighbours: int = 5
) -> tuple[float, float]:
    """Density and coverage of two whole sets of vectors."""
    density, coverage = densities_coverages(held(real), held(fake), neighbours)
    return float(density), float(coverage)


def precisions_recalls(
    real: Sample, fake: Sample, neighbours: int = 3
) -> tuple[Float[Tensor, " columns"], Float[Tensor, " columns"]]:
    """Precision and recall in each column of the halves."""
    about_real, about_fake = radii_of(real, neighbours), radii_of(fake, neighbours)
    real_found, fake_found = Found(real), Found(fake)
    for at, end in blocks(len(real)):
        centres, held_in = _block(real, at, end), _inside(real, at, end)
        for start, stop in blocks(len(fake)):
            away, among = (
                torch.cdist(_block(fake, start, stop), centres),
                _inside(fake, start, stop),
            )
            fake_found.add(start, _counts(away, among, about_real[at:end], held_in))
            real_found.add(at, _counts(away.T, held_in, about_fake[start:stop], among))
    return fake_found.share, real_found.share


def densities_coverages(
    real: Sample, fake: Sample, neighbours: int = 5
) -> tuple[Float[Tensor, " columns"], Float[Tensor, " columns"]]:
    """Density and coverage in each column of the halves."""
    held_in_all, covered = torch.zeros(2, real.columns, dtype=torch.float64)
    radii = radii_of(real, neighbours)
    for at, end in blocks(len(real)):
        centres, held_in = _block(real, at, end), _inside(real, at, end)
        counts = torch.zeros(end - at, real.columns)
        for start, stop in blocks(len(fake)):
            away, among = (
                torch.cdist(_block(fake, start, stop), centres),
                _inside(fake, start, stop),
            )
            for _, ball, hits in _hits(away, among, radii[at:end], held_in):
                counts.index_add_(0, ball, hits)
        held_in_all += counts.sum(dim=0)
        covered += (counts > 0).sum(dim=0)
    return held_in_all / (neighbours * fake.numbers), covered / real.numbers


class Found:
    """Which images of a sample lie in a ball, by column: a bit for each, which is all that grows
    with the number of images."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self._bits = np.zeros((len(sample), -(-sample.columns // 8)), np.uint8)

    def add(self, start: int, counts: Float[Tensor, "block columns"]) -> None:
        """In how many further balls the images from `start` on lie."""
        self._bits[start : start + len(counts)] |= np.packbits(counts.numpy() > 0, axis=1)

    @property
    def share(self) -> Float[Tensor, " columns"]:
        """The share of the images of each column."""
        found = torch.zeros(self.sample.columns, dtype=torch.float64)
        for start, stop in blocks(len(self.sample)):
            bits = np.unpackbits(self._bits[start:stop], axis=1, count=self.sample.columns)
            found += torch.from_numpy(bits).sum(dim=0)
        return found / self.sample.numbers


def _block(sample: Sample, start: int, stop: int) -> Float[Tensor, "block dims"]:
    return sample.parts[VECTORS].read(start, stop).double()


def _inside(sample: Sample, start: int, stop: int) -> Bool[Tensor, "block columns"]:
    return sample.halves.of(torch.arange(start, stop)).bool()


def _counts(
    away: Tensor, among: Tensor, radii: Tensor, held_in: Tensor
) -> Float[Tensor, "points columns"]:
    """In how many balls each point lies, by column."""
    counts = torch.zeros(among.shape)
    for point, _, hits in _hits(away, among, radii, held_in):
        counts.index_add_(0, point, hits)
    return counts


def _hits(
    away: Float[Tensor, "points balls"],
    among: Bool[Tensor, "points columns"],
    radii: Float[Tensor, "balls columns"],
    held_in: Bool[Tensor, "balls columns"],
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pairs of a point and a ball, some at a time: the number of each, and by column 1 where both
    are in it and the point lies in the ball."""
    point, ball = (away <= radii.amax(dim=1)).nonzero(as_tuple=True)
    for start, stop in blocks(len(point), PAIRS):
        p, b = point[start:stop], ball[start:stop]
        hits = (away[p, b][:, None] <= radii[b]) & among[p] & held_in[b]
        yield p, b, hits.float()


def radii_of(sample: Sample, neighbours: int) -> Float[Tensor, "images columns"]:
    """How far the ball about each vector reaches in each column, float64; in a column of too few
    images to the last there is. What is outside of a column has a radius there that means nothing.
    """
    searched = max(SEARCHED, neighbours)
    away, who = sample.once(f"nearest {searched}", lambda: nearest_of(sample, searched))
    radii = torch.empty(len(sample), sample.columns, dtype=torch.float64)
    for at, end in blocks(len(sample), 128):
        # (block, searched, columns): how many neighbours of each column have been passed.
        passed = sample.halves.of(who[at:end]).cumsum(dim=1, dtype=torch.int16)
        reached = passed >= neighbours
        reached[:, -1] = True
        radii[at:end] = away[at:end].gather(1, reached.to(torch.int8).argmax(dim=1))
    return radii


def nearest_of(sample: Sample, count: int) -> Nearest:
    """The nearest `count` others of each vector, or as many as there are."""
    images, searched = len(sample), min(count, len(sample) - 1)
    found = Nearest(
        torch.full((images, searched), torch.inf, dtype=torch.float64),
        torch.zeros(images, searched, dtype=torch.int64),
    )
    for at, end in blocks(images):
        own = _block(sample, at, end)
        for start, stop in blocks(at):
            away = torch.cdist(own, _block(sample, start, stop))
            _merge(found, slice(at, end), away, start)
            _merge(found, slice(start, stop), away.T, at)
        _merge(found, slice(at, end), torch.cdist(own, own).fill_diagonal_(torch.inf), at)
    return found


def _merge(found: Nearest, rows: slice, away: Float[Tensor, "rows others"], start: int) -> None:
    """Keep the nearest of those found so far and of further ones, which are numbered from `start`
    on."""
    searched = found.away.shape[1]
    # Those of the block first: what is put together is small.
    here, numbers = away.topk(min(searched, away.shape[1]), largest=False, dim=1)
    both = torch.cat((found.away[rows], here), dim=1)
    who = torch.cat((found.who[rows], start + numbers), dim=1)
    found.away[rows], order = both.topk(searched, largest=False, dim=1)
    found.who[rows] = who.gather(1, order)
