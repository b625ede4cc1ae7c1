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
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from overtone.metrics.parts import VECTORS
from overtone.metrics.sample import Sample, held
from overtone.metrics.vectors import Vectors, blocks

SEARCHED = 32
PAIRS = 2**11
"""pairs of a vector and a ball that are looked at at a time"""


class Balls(NamedTuple):
    """Balls about some of the vectors of a sample."""

    centres: Float[Tensor, "block dims"]
    inside: Bool[Tensor, "block columns"]
    """whether the vector is in a column"""
    radii: Float[Tensor, "block columns"]


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
    return share_within(fake, real, neighbours), share_within(real, fake, neighbours)


def densities_coverages(
    real: Sample, fake: Sample, neighbours: int = 5
) -> tuple[Float[Tensor, " columns"], Float[Tensor, " columns"]]:
    """Density and coverage in each column of the halves."""
    held_in_all, covered = torch.zeros(2, real.columns, dtype=torch.float64)
    for balls in balls_of(real, neighbours):
        held_in = torch.zeros(balls.radii.shape)
        for start, stop in blocks(len(fake)):
            for _, ball, hits in _hits(*_points(fake, start, stop), balls):
                held_in.index_add_(0, ball, hits)
        held_in_all += held_in.sum(dim=0)
        covered += (held_in > 0).sum(dim=0)
    return held_in_all / (neighbours * fake.numbers), covered / real.numbers


def share_within(points: Sample, manifold: Sample, neighbours: int) -> Float[Tensor, " columns"]:
    """The share of the points that lie in a ball of the manifold, in each column."""
    # A bit for each point and column is all that grows with the number of images.
    found = np.zeros((len(points), -(-points.columns // 8)), np.uint8)
    for balls in balls_of(manifold, neighbours):
        for start, stop in blocks(len(points)):
            counts = torch.zeros(stop - start, points.columns)
            for point, _, hits in _hits(*_points(points, start, stop), balls):
                counts.index_add_(0, point, hits)
            found[start:stop] |= np.packbits(counts.numpy() > 0, axis=1)
    inside = torch.zeros(points.columns, dtype=torch.float64)
    for start, stop in blocks(len(points)):
        bits = np.unpackbits(found[start:stop], axis=1, count=points.columns)
        inside += torch.from_numpy(bits).sum(dim=0)
    return inside / points.numbers


def _points(sample: Sample, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Some vectors of a sample in float64, and whether each is in a column."""
    vectors = sample.parts[VECTORS].read(start, stop).double()
    return vectors, sample.halves.of(torch.arange(start, stop)).bool()


def _hits(
    points: Float[Tensor, "points dims"], among: Bool[Tensor, "points columns"], balls: Balls
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pairs of a point and a ball, some at a time: the number of each, and by column 1 where both
    are in it and the point lies in the ball."""
    away = torch.cdist(points, balls.centres)
    point, ball = (away <= balls.radii.amax(dim=1)).nonzero(as_tuple=True)
    for start, stop in blocks(len(point), PAIRS):
        p, b = point[start:stop], ball[start:stop]
        hits = (away[p, b][:, None] <= balls.radii[b]) & among[p] & balls.inside[b]
        yield p, b, hits.float()


def balls_of(sample: Sample, neighbours: int) -> Iterator[Balls]:
    """The balls of a sample, block by block. In a column of too few images they reach to the last
    there is."""
    vectors = sample.parts[VECTORS]
    for start, stop in blocks(len(sample)):
        centres, inside = _points(sample, start, stop)
        away, who = _nearest(centres, start, vectors, max(SEARCHED, neighbours))
        radii = torch.empty(len(centres), sample.columns, dtype=torch.float64)
        for at, end in blocks(len(centres), 128):
            # (block, searched, columns): how many neighbours of each column have been passed.
            passed = sample.halves.of(who[at:end]).cumsum(dim=1, dtype=torch.int16)
            reached = passed >= neighbours
            reached[:, -1] = True
            radii[at:end] = away[at:end].gather(1, reached.to(torch.int8).argmax(dim=1))
        yield Balls(centres, inside, radii)


def _nearest(centres: Tensor, start: int, vectors: Vectors, count: int) -> tuple[Tensor, Tensor]:
    """The distances and numbers of the nearest vectors of each, itself left out, rising."""
    away = torch.empty(len(centres), 0, dtype=torch.float64)
    who = torch.empty(len(centres), 0, dtype=torch.int64)
    for at, end in blocks(len(vectors)):
        here = torch.cdist(centres, vectors.read(at, end).double())
        own = torch.arange(start, start + len(centres)) - at
        rows = ((own >= 0) & (own < end - at)).nonzero()[:, 0]
        here[rows, own[rows]] = torch.inf
        # Those of the block first: what is put together is small.
        here, numbers = here.topk(min(count, end - at), largest=False, dim=1)
        away, who = torch.cat((away, here), dim=1), torch.cat((who, at + numbers), dim=1)
        away, order = away.topk(min(count, away.shape[1]), largest=False, dim=1)
        who = who.gather(1, order)
    if len(vectors) <= count:  # itself, at an infinite distance, is among them
        away, who = away[:, :-1], who[:, :-1]
    return away, who
