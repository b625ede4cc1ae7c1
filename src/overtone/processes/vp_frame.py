"""The variance-preserving frame and the times in which trajectories of the ODE are kept.

States are z = x / sqrt(1 + sigma^2), of unit variance where noise dominates: the
variance-preserving frame. Times are t in [0, 1] of the log-SNR cosine schedule, an angle: sigma is
nearly tan(pi t / 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from overtone.processes.schedule import VPCosineSchedule

if TYPE_CHECKING:
    from torch import Tensor

Spacing = Literal["quad", "uniform"]

FLOW_TIME = VPCosineSchedule()
"""whose t is meant by the times of a trajectory"""


def to_vp(x: Tensor, sigma: float) -> Tensor:
    """z of x = mean(x_0, sigma) + sigma noise."""
    return x * (1 + sigma**2) ** -0.5


def from_vp(z: Tensor, sigma: float) -> Tensor:
    """The inverse of `to_vp`."""
    return z * (1 + sigma**2) ** 0.5


def spaced(count: int, spacing: Spacing, start: float = 1.0) -> tuple[float, ...]:
    """`count` times that fall from below `start` to 0: start (1 - j / count)^p, p = 2 for "quad",
    DSNO's, which crowds them towards the image."""
    power = 2 if spacing == "quad" else 1
    return tuple(start * ((count - j) / count) ** power for j in range(1, count + 1))


def check_levels(sigmas: Sequence[float]) -> None:
    """Raises `ValueError` for noise levels that do not fall to 0."""
    falls = all(high > low for high, low in pairwise(sigmas))
    if len(sigmas) < 2 or not falls or sigmas[-1] != 0:
        raise ValueError(f"the noise levels of a trajectory fall to 0: {tuple(sigmas)}")
