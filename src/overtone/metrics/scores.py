"""Scores on features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

BLOCK = 1024  # vectors at a time, which may come from a file
ROUNDING = 1e-7
"""of the vectors' mean square: a distance below is what rounding makes of equal sets"""


class FrechetDistance:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) between real and fake feature vectors.

    Heusel et al. 2017 (arXiv 1706.08500), by torchmetrics: sums and outer products in float64, one
    batch at a time. The vectors come from any extractor; with Inception's they would give the FID.
    """

    def __init__(self, dims: int) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        self.metric = FrechetInceptionDistance(
            feature=_AsTheyAre(dims),
            sync_on_compute=False,  # the vectors of all processes are here already
        )

    def update(self, vectors: Float[Tensor, "batch dims"], *, real: bool) -> None:
        self.metric.update(vectors.double(), real=real)

    def compute(self) -> float:
        distance = self.metric.compute().item()
        return 0.0 if distance < ROUNDING * self._scale() else distance

    def _scale(self) -> float:
        """Mean square of the vectors of both sets."""
        own: Any = self.metric
        real = own.real_features_cov_sum.trace() / own.real_features_num_samples
        fake = own.fake_features_cov_sum.trace() / own.fake_features_num_samples
        return float(real + fake)


class _AsTheyAre(nn.Module):
    """Stands for the network: what is handed in are feature vectors already."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.num_features = dims

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors


def frechet_distance(real: Float[Tensor, "real dims"], fake: Float[Tensor, "fake dims"]) -> float:
    """`FrechetDistance` of two whole sets of vectors."""
    distance = FrechetDistance(real.shape[1])
    for part in real.split(BLOCK):
        distance.update(part, real=True)
    for part in fake.split(BLOCK):
        distance.update(part, real=False)
    return distance.compute()


def kernel_distance(
    real: Float[Tensor, "real dims"],
    fake: Float[Tensor, "fake dims"],
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> float:
    """The squared maximum mean discrepancy under k(x, y) = (x.y / dims + 1)^3, unbiased, averaged
    over random subsets; with Inception's features the KID (Binkowski et al. 2018, arXiv
    1801.01401):

        sum_{i != j} (k(x_i, x_j) + k(y_i, y_j)) / (m (m - 1)) - 2 / m^2 sum_{i, j} k(x_i, y_j)

    The subsets are those of torch-fidelity for `fake` as its first input, the same seed and sizes;
    `subset_size` is cut to the number of vectors there are.
    """
    size = min(subset_size, len(real), len(fake))
    draw = np.random.RandomState(seed)
    total = 0.0
    for _ in range(subsets):
        x = fake[torch.from_numpy(draw.choice(len(fake), size, replace=False))].double()
        y = real[torch.from_numpy(draw.choice(len(real), size, replace=False))].double()
        own = sum(float(k.sum() - k.diagonal().sum()) for k in (_kernel(x, x), _kernel(y, y)))
        total += own / (size * (size - 1)) - 2 * float(_kernel(x, y).mean())
    return total / subsets


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def precision_recall(
    real: Float[Tensor, "real dims"], fake: Float[Tensor, "fake dims"], neighbours: int = 3
) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991).

    Precision is the share of `fake` within the manifold of `real`, the union of balls about each
    vector that reach to its k-th neighbour; recall the share of `real` within that of `fake`.
    """
    return _share_within(fake, real, neighbours), _share_within(real, fake, neighbours)


def _share_within(points: Tensor, manifold: Tensor, neighbours: int) -> float:
    # The nearest is the vector itself, at distance 0.
    radii = torch.cat(
        [
            _distances(block, manifold).kthvalue(neighbours + 1, dim=1).values
            for block in manifold.split(BLOCK)
        ]
    )
    inside = [(_distances(b, manifold) <= radii).any(dim=1) for b in points.split(BLOCK)]
    return float(torch.cat(inside).double().mean())


def _distances(points: Tensor, others: Tensor) -> Tensor:
    points = points.double()
    return torch.cat([torch.cdist(points, part.double()) for part in others.split(BLOCK)], dim=1)
