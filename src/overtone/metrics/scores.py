"""Scores on features."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class FrechetDistance:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) between real and fake feature vectors.

    Heusel et al. 2017 (arXiv 1706.08500), by torchmetrics: sums and outer products in float64, one
    batch at a time. The vectors come from any extractor; with Inception's they would give the FID.
    """

    def __init__(self, dims: int) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        self.metric = FrechetInceptionDistance(feature=_AsTheyAre(dims))

    def update(self, vectors: Float[Tensor, "batch dims"], *, real: bool) -> None:
        self.metric.update(vectors.double(), real=real)

    def compute(self) -> float:
        return self.metric.compute().item()


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
    distance.update(real, real=True)
    distance.update(fake, real=False)
    return distance.compute()


def precision_recall(
    real: Float[Tensor, "real dims"], fake: Float[Tensor, "fake dims"], neighbours: int = 3
) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991).

    Precision is the share of `fake` within the manifold of `real`, the union of balls about each
    vector that reach to its k-th neighbour; recall the share of `real` within that of `fake`.
    """
    return _share_within(fake, real, neighbours), _share_within(real, fake, neighbours)


def _share_within(points: Tensor, manifold: Tensor, neighbours: int) -> float:
    manifold, points = manifold.double(), points.double()
    blocks = manifold.split(1024)
    # The nearest is the vector itself, at distance 0.
    radii = torch.cat(
        [torch.cdist(b, manifold).kthvalue(neighbours + 1, dim=1).values for b in blocks]
    )
    inside = [(torch.cdist(b, manifold) <= radii).any(dim=1) for b in points.split(1024)]
    return float(torch.cat(inside).double().mean())
