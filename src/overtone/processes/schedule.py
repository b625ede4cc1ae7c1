"""Schedules: time t in [0, 1] <-> noise level sigma, both ways.

Training draws t ~ U(0, 1) and asks the schedule for sigma(t); a schedule is thus also the
distribution of noise levels that a network is trained on. Everything here is float64 on the host:
under EDM's distribution sigma = 80 is the quantile 1 - 1.7e-6, which float32 holds to two digits.
Of tensors on Apple's GPU, which has no float64, it is float32.

Each formula is written once, for numbers and for tensors: `m` in it is `math` or `torch`. So
settings are read, and single noise levels computed, without torch, which takes seconds to import.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar

from overtone.ranges import BetaRate, Finite, Level, LogSNR, NotNegative, Positive
from overtone.registry import Kind

if TYPE_CHECKING:
    from torch import Tensor

N = Any
"""a float or a float64 tensor: what comes out is what went in"""


class Schedule(Kind, ABC, family="schedule", home="overtone.processes"):
    """A strictly increasing map from time in [0, 1] to noise level in [0, inf].

    Kinds write `_sigma(t, m)` and `_t(sigma, m)`, with `m` the module whose functions apply.
    """

    discrete: ClassVar[bool] = False
    """Whether the schedule consists of numbered steps (`levels`)."""

    def sigma(self, t: Tensor | float) -> Tensor:
        """Noise level of time t, in t's shape, float64. Raises `ValueError` outside [0, 1]."""
        import torch

        t = _wide(t)
        _check(t, (t >= 0) & (t <= 1), "t must be in [0, 1]")
        return self._sigma(t, torch)

    def t(self, sigma: Tensor | float) -> Tensor:
        """Time of a noise level, in sigma's shape, float64. Raises `ValueError` below zero.

        Levels that the schedule does not reach have the time of its nearer end.
        """
        import torch

        sigma = _wide(sigma)
        _check(sigma, sigma >= 0, "sigma must be at least 0")
        return self._t(sigma, torch)

    def sigma_at(self, t: float) -> float:
        """`sigma` of one time, as a number."""
        if not 0 <= t <= 1:
            raise ValueError(f"t must be in [0, 1], not {t}")
        return float(self._sigma(float(t), math))

    def t_at(self, sigma: float) -> float:
        """`t` of one noise level, as a number."""
        if not sigma >= 0:
            raise ValueError(f"sigma must be at least 0, not {sigma}")
        return float(self._t(float(sigma), math))

    def drawn(self, uniform: Tensor) -> Tensor:
        """Times of training from draws of U(0, 1): those themselves, where time is continuous."""
        return uniform

    def share_below(self, sigma: float) -> float:
        """The share of training's noise levels that lie below one: its time, where continuous."""
        return self.t_at(sigma)

    def drawn_below(self, sigma: float) -> float:
        """The probability that training draws a level up to and with this one."""
        return self.share_below(sigma) if 0 < sigma < math.inf else float(sigma > 0)

    def shares(self, count: int) -> tuple[float, ...]:
        """The noise levels between `count` equal shares of time, rising."""
        return tuple(self.sigma_at(n / count) for n in range(1, count))

    @abstractmethod
    def _sigma(self, t: N, m: Any) -> N: ...

    @abstractmethod
    def _t(self, sigma: N, m: Any) -> N: ...


def _wide(values: Tensor | float) -> Tensor:
    """float64, where the values' device has it."""
    import torch

    from overtone.precision import widest

    device = values.device if isinstance(values, torch.Tensor) else "cpu"
    return torch.as_tensor(values, dtype=widest(device))


def _check(values: Tensor, good: Tensor, message: str) -> None:
    # To look at a device's numbers would make the host wait for it.
    if values.device.type == "cpu" and not bool(good.all()):
        raise ValueError(message)


def clamp(value: N, low: float, high: float) -> N:
    if isinstance(value, float):
        return min(max(value, low), high)
    return value.clamp(low, high)


@dataclass(frozen=True)
class QuantileSchedule(Schedule, kind="quantile"):
    """EDM's noise levels as a schedule: ln sigma ~ N(P_mean, P_std^2) when t ~ U(0, 1).

        sigma(t) = F^-1(L t) = exp(P_mean + P_std Phi^-1(L t)),   F the log-normal CDF

    Karras et al. 2022 (arXiv 2206.00364), table 1, where L = `prob_length` = 1. Relay diffusion's
    second stage ends lower: it is shown only the first L of the levels (arXiv 2309.03350).
    """

    P_mean: Finite = -1.2
    """The mean of ln sigma."""
    P_std: Positive = 1.2
    """The standard deviation of ln sigma."""
    prob_length: Positive = 1.0
    """L in sigma(t) = F^-1(L t), where F is the log-normal distribution function of sigma. Below 1
    only the lowest share L of the noise levels is used. Above 1, as in the published sampler for
    CelebA-HQ, sigma is infinite at times of 1 / L and above."""
    truncate_sigma: NotNegative = 0.0
    """Training draws no noise level below about this one: a lower time is raised to L
    F(truncate_sigma), where F is the log-normal distribution function of sigma. 0 turns this
    off."""

    def drawn(self, uniform: Tensor) -> Tensor:
        if not self.truncate_sigma:
            return uniform
        # As published: the level of this time, F^-1(L^2 F), is a little below truncate_sigma.
        return uniform.clamp(min=self.prob_length * self._cdf(float(self.truncate_sigma), math))

    def _sigma(self, t: N, m: Any) -> N:
        return m.exp(
            self.P_mean + self.P_std * normal_quantile(clamp(self.prob_length * t, 0.0, 1.0))
        )

    def _t(self, sigma: N, m: Any) -> N:
        return clamp(self._cdf(sigma, m) / self.prob_length, 0.0, 1.0)

    def _cdf(self, sigma: N, m: Any) -> N:
        return normal_cdf(sigma, self.P_mean, self.P_std, m)


def normal_cdf(sigma: N, mean: float, std: float, m: Any) -> N:
    """The probability that a log-normal noise level lies below sigma."""
    if isinstance(sigma, float) and sigma == 0:  # of which math has no logarithm
        return 0.0
    z = (m.log(sigma) - mean) / std
    return m.erfc(-z / 2**0.5) / 2  # torch.special.ndtr loses the lower tail's digits


def normal_quantile(p: N) -> N:
    """Phi^-1, the inverse of the standard normal distribution function."""
    if isinstance(p, float):
        return NormalDist().inv_cdf(p) if 0 < p < 1 else math.copysign(math.inf, p - 0.5)
    import torch

    return torch.special.ndtri(p)


@dataclass(frozen=True)
class VPLinearSchedule(Schedule, kind="vp_linear"):
    """Variance preserving with beta linear in time (Ho et al. 2020; Song et al. 2021):

        sigma(t)^2 + 1 = exp(beta_min t + (beta_max - beta_min) t^2 / 2)

    the noise level of x / alpha; sigma(1) = 152 at the defaults.
    """

    beta_min: BetaRate = 0.1
    """The value of beta at t = 0."""
    beta_max: BetaRate = 20.0
    """The value of beta at t = 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta_min < self.beta_max:
            raise ValueError(
                f"0 <= beta_min < beta_max does not hold: {self.beta_min}, {self.beta_max}"
            )

    def _sigma(self, t: N, m: Any) -> N:
        return m.sqrt(m.expm1(t * (self.beta_min + (self.beta_max - self.beta_min) / 2 * t)))

    def _t(self, sigma: N, m: Any) -> N:
        # The root of the quadratic, in the form that loses no digits for small sigma.
        log = m.log1p(sigma**2)
        slope = self.beta_max - self.beta_min
        root = 2 * log / (self.beta_min + m.sqrt(self.beta_min**2 + 2 * slope * log))
        return clamp(root, 0.0, 1.0)


@dataclass(frozen=True)
class VPCosineSchedule(Schedule, kind="vp_cosine"):
    """Variance preserving with alpha = cos(a t + b): log-SNR from `log_snr_max` to `log_snr_min`.

        sigma(t) = tan(a t + b),   b = atan(exp(-log_snr_max / 2)),
                                   a = atan(exp(-log_snr_min / 2)) - b

    The cosine schedule (Nichol & Dhariwal 2021) in the form of Salimans & Ho 2022
    (arXiv 2202.00512), whose truncation keeps sigma(1) finite: 22026 at the defaults.
    """

    log_snr_min: LogSNR = -20.0
    """The log-SNR, log(alpha^2 / sigma^2), at t = 1."""
    log_snr_max: LogSNR = 20.0
    """The log-SNR, log(alpha^2 / sigma^2), at t = 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.log_snr_min < self.log_snr_max:
            raise ValueError(
                f"log_snr_min < log_snr_max does not hold: {self.log_snr_min}, {self.log_snr_max}"
            )

    @property
    def _line(self) -> tuple[float, float]:
        b = math.atan(math.exp(-self.log_snr_max / 2))
        return math.atan(math.exp(-self.log_snr_min / 2)) - b, b

    def _sigma(self, t: N, m: Any) -> N:
        a, b = self._line
        return m.tan(a * t + b)

    def _t(self, sigma: N, m: Any) -> N:
        a, b = self._line
        return clamp((m.atan(sigma) - b) / a, 0.0, 1.0)


@dataclass(frozen=True)
class VESchedule(Schedule, kind="ve"):
    """Variance exploding, geometric (Song et al. 2021, arXiv 2011.13456):

    sigma(t) = sigma_min (sigma_max / sigma_min)^t
    """

    sigma_min: Level = 0.02
    """The noise level at t = 0."""
    sigma_max: Level = 100.0
    """The noise level at t = 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"0 < sigma_min < sigma_max does not hold: {self.sigma_min}, {self.sigma_max}"
            )

    def _sigma(self, t: N, m: Any) -> N:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def _t(self, sigma: N, m: Any) -> N:
        if isinstance(sigma, float) and sigma == 0:  # of which math has no logarithm
            return 0.0
        ratio = m.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)
        return clamp(ratio, 0.0, 1.0)
