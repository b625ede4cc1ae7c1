"""The schedule of rectified flow: straight lines from images to noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from overtone.processes.schedule import N, Schedule, clamp, normal_cdf, normal_quantile
from overtone.ranges import Finite, Level, Positive


@dataclass(frozen=True)
class FlowSchedule(Schedule, kind="flow"):
    """Rectified flow (Liu et al. 2022, arXiv 2209.03003; Lipman et al. 2022, arXiv 2210.02747).

    Its state at flow time s in [0, 1] is x_s = (1 - s) x_0 + s noise, so that in the frame of this
    library, x_s / (1 - s),

        sigma = s / (1 - s),   s = sigma / (1 + sigma),   ln sigma = logit(s)

    The noise level is infinite at s = 1: training and sampling stop at `sigma_max`. Flow times are
    drawn uniformly, or logit-normally (Esser et al. 2024, arXiv 2403.03206), which is to say that
    ln sigma is normal, as EDM's is; both between the two ends.
    """

    times: Literal["uniform", "logit_normal"] = "uniform"
    """How flow times are drawn in training: uniform, or logit_normal."""
    mean: Finite = 0.0
    """The mean of logit(s) under logit_normal."""
    std: Positive = 1.0
    """The standard deviation of logit(s) under logit_normal."""
    sigma_min: Level = 0.001
    """The lowest noise level. The default is that of the flow time 0.000999."""
    sigma_max: Level = 999.0
    """The highest noise level. The default is that of the flow time 0.999."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"0 < sigma_min < sigma_max does not hold: {self.sigma_min}, {self.sigma_max}"
            )
        if not self._place(self.sigma_min, math) < self._place(self.sigma_max, math):
            raise ValueError(
                f"mean {self.mean} and std {self.std} leave no noise level between sigma_min and"
                " sigma_max"
            )

    def _sigma(self, t: N, m: Any) -> N:
        low, high = self._place(self.sigma_min, math), self._place(self.sigma_max, math)
        place = low + (high - low) * t
        if self.times == "uniform":
            sigma = place / (1 - place)
        else:
            sigma = m.exp(self.mean + self.std * normal_quantile(place))
        return clamp(sigma, self.sigma_min, self.sigma_max)

    def _t(self, sigma: N, m: Any) -> N:
        low, high = self._place(self.sigma_min, math), self._place(self.sigma_max, math)
        return clamp((self._place(sigma, m) - low) / (high - low), 0.0, 1.0)

    def _place(self, sigma: N, m: Any) -> N:
        """The share of all flow times that are below that of a noise level."""
        if self.times == "uniform":
            return 1 - 1 / (1 + sigma)
        return normal_cdf(sigma, self.mean, self.std, m)
