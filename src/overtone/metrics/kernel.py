"""The kernel distance between features; on Inception's, the KID (Binkowski et al. 2018, arXiv
1801.01401).

The squared maximum mean discrepancy under k(x, y) = (x.y / dims + 1)^3, unbiased:

    sum_{i != j} (k(x_i, x_j) / (n (n - 1)) + k(y_i, y_j) / (m (m - 1))) - 2 / (n m) sum k(x_i, y_j)
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from overtone.metrics.parts import VECTORS
from overtone.metrics.sample import Sample, held
from overtone.metrics.vectors import BLOCK, Vectors, blocks


def kernel_distance(
    real: Float[Tensor, "real dims"],
    fake: Float[Tensor, "fake dims"],
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> float:
    """The mean over random subsets, as it is published; see `of_subsets`."""
    parts = held(real).parts[VECTORS], held(fake).parts[VECTORS]
    return of_subsets(*parts, subsets, subset_size, seed)


def of_subsets(
    real: Vectors, fake: Vectors, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> float:
    """The distance averaged over random subsets of both.

    The subsets are those of torch-fidelity for `fake` as its first input, the same seed and sizes;
    `subset_size` is cut to the number of vectors there are.
    """
    size = min(subset_size, len(real), len(fake))
    draw = np.random.RandomState(seed)
    total = 0.0
    for _ in range(subsets):
        chosen, others = (draw.choice(n, size, replace=False) for n in (len(fake), len(real)))
        x, y = fake.rows(chosen.tolist()).double(), real.rows(others.tolist()).double()
        own = sum(float(k.sum() - k.diagonal().sum()) for k in (_kernel(x, x), _kernel(y, y)))
        total += own / (size * (size - 1)) - 2 * float(_kernel(x, y).mean())
    return total / subsets


def of_all_pairs(real: Sample, fake: Sample) -> Float[Tensor, " columns"]:
    """The distance over all pairs of images, in each column of the halves."""
    return _within(fake) + _within(real) - 2 * _across(real, fake)


def _within(sample: Sample) -> Tensor:
    """The mean kernel of two different images, by column."""
    total, vectors = torch.zeros(sample.columns, dtype=torch.float64), sample.parts[VECTORS]
    for start, stop in blocks(len(sample)):
        x, inside = vectors.read(start, stop).double(), sample.halves.block(start, stop)
        own = _kernel(x, x).fill_diagonal_(0.0)
        total += (inside * (own @ inside)).sum(dim=0)
        for at, end in blocks(start):  # the kernel is symmetric: each pair of blocks once
            y = vectors.read(at, end).double()
            total += 2 * (inside * (_kernel(x, y) @ sample.halves.block(at, end))).sum(dim=0)
    return total / (sample.numbers * (sample.numbers - 1))


def _across(real: Sample, fake: Sample) -> Tensor:
    """The mean kernel of an image of each side, by column."""
    total = torch.zeros(fake.columns, dtype=torch.float64)
    for x, inside in fake.blocks(VECTORS, BLOCK):
        for y, among in real.blocks(VECTORS, BLOCK):
            total += (inside * (_kernel(x, y) @ among)).sum(dim=0)
    return total / (real.numbers * fake.numbers)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)
