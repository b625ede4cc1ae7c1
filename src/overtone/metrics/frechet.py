"""The Fréchet distance between features.

Heusel et al. 2017 (arXiv 1706.08500): the distance between Gaussians with the means and covariances
of two sets of feature vectors,

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)).

On the pooled features of a certain Inception network it is the FID; on features that keep the
place, sFID (Nash et al. 2021, arXiv 2103.03841); on DINOv2's, FD-DINOv2 (Stein et al. 2023, arXiv
2306.04675).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from overtone.metrics.parts import VECTORS
from overtone.metrics.sample import Moments, Sample, held

ROUNDING = 1e-7
"""of the vectors' mean square: a distance below is what rounding makes of equal sets"""


@runtime_checkable
class HasMoments(Protocol):
    """A side of which means and covariances are known: a sample, or published statistics."""

    def whole(self, part: str) -> Moments: ...
    def pairs(self, part: str, pairs: slice) -> Moments: ...


def distances(real: HasMoments, fake: Sample, part: str = VECTORS) -> Float[Tensor, " columns"]:
    """The distance in each column of `fake.halves`."""
    whole = distance(real.whole(part), fake.whole(part))
    first, second = [], []
    for chunk in fake.chunks(part):
        both = distance(real.pairs(part, chunk), fake.pairs(part, chunk))
        count = chunk.stop - chunk.start
        first.append(both[:count])
        second.append(both[count:])
    return torch.cat((whole, *first, *second))


def distance(a: Moments, b: Moments) -> Float[Tensor, " columns"]:
    """The distance of Gaussians, one for each column; 0 where it is within rounding of equal."""
    spread = _trace(a.covariance) + _trace(b.covariance)
    out = (a.mean - b.mean).square().sum(dim=1) + spread
    out -= 2 * trace_of_root(a.covariance, b.covariance)
    scale = spread + a.mean.square().sum(dim=1) + b.mean.square().sum(dim=1)
    return torch.where(out < ROUNDING * scale, 0.0, out)


def trace_of_root(
    a: Float[Tensor, "columns dims dims"], b: Float[Tensor, "columns dims dims"]
) -> Float[Tensor, " columns"]:
    """tr (A B)^(1/2) of covariances: with A = L L^T the sum of the roots of the eigenvalues of
    L^T B L, which is symmetric. Of fewer vectors than dimensions A is singular: a little is added
    to its diagonal until it has a root."""
    identity = torch.eye(a.shape[-1], dtype=a.dtype)
    jitter = _trace(a) / a.shape[-1] * 1e-15
    for _ in range(6):
        lower, failed = torch.linalg.cholesky_ex(a + jitter[:, None, None] * identity)
        if not failed.any():
            break
        jitter = torch.where(failed > 0, 10 * jitter + 1e-300, jitter)
    eigenvalues = torch.linalg.eigvalsh(lower.mT @ b @ lower)
    return eigenvalues.clamp(min=0).sqrt().sum(dim=1)


def _trace(covariance: Tensor) -> Tensor:
    return covariance.diagonal(dim1=-2, dim2=-1).sum(dim=-1)


def frechet_distance(real: Float[Tensor, "real dims"], fake: Float[Tensor, "fake dims"]) -> float:
    """The distance of two whole sets of vectors."""
    return float(distances(held(real), held(fake)))
