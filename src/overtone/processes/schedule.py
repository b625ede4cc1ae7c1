"""Schedules: time t in [0, 1] <-> noise level sigma, both ways.

Training draws t ~ U(0, 1) and asks the schedule for sigma(t); a schedule is thus also the
distribution of noise levels that a network is trained on. Everything here is float64 on the host:
under EDM's distribution sigma = 80 is the quantile 1 - 1.7e-6, which float32 holds to two digits.

Each formula is written once, for numbers and for tensors: `m` in it is `math` or `torch`. So
settings are read, and single noise levels computed, without torch, which takes seconds to import.
"""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from overtone.registry import Kind

if TYPE_CHECKING:
    import torch
    from torch import Tensor

N = Any
"""a float or a float64 tensor: what comes out is what went in"""


class Schedule(Kind, ABC, family="schedule", home="overtone.processes"):
    """A strictly increasing map from time in [0, 1] to noise level in [0, inf].

    Kinds write `_sigma(t, m)` and `_t(sigma, m)`, with `m` the module whose functions apply.
    """

    discrete: ClassVar[bool] = False
    """whether it consists of numbered steps (`levels`)"""

    def sigma(self, t: Tensor | float) -> Tensor:
        """Noise level of time t, in t's shape, float64. Raises `ValueError` outside [0, 1]."""
        import torch

        t = torch.as_tensor(t, dtype=torch.float64)
        _check(t, (t >= 0) & (t <= 1), "time is outside [0, 1]")
        return self._sigma(t, torch)

    def t(self, sigma: Tensor | float) -> Tensor:
        """Time of a noise level, in sigma's shape, float64. Raises `ValueError` below zero.

        Levels that the schedule does not reach have the time of its nearer end.
        """
        import torch

        sigma = torch.as_tensor(sigma, dtype=torch.float64)
        _check(sigma, sigma >= 0, "sigma is negative")
        return self._t(sigma, torch)

    def sigma_at(self, t: float) -> float:
        """`sigma` of one time, as a number."""
        if not 0 <= t <= 1:
            raise ValueError("time is outside [0, 1]")
        return float(self._sigma(float(t), math))

    def t_at(self, sigma: float) -> float:
        """`t` of one noise level, as a number."""
        if not sigma >= 0:
            raise ValueError("sigma is negative")
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


def _check(values: Tensor, good: Tensor, message: str) -> None:
    # To look at a device's numbers would make the host wait for it.
    if values.device.type == "cpu" and not bool(good.all()):
        raise ValueError(message)


def _clamp(value: N, low: float, high: float) -> N:
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

    P_mean: float = -1.2
    """mean of ln sigma"""
    P_std: float = 1.2
    """standard deviation of ln sigma"""
    prob_length: float = 1.0
    """L, the share of the levels that is used, from the lowest up; beyond 1 (as in the published
    sampler for CelebA-HQ) times above 1 / L have no level"""
    truncate_sigma: float = 0.0
    """in training no noise level below about this one is drawn: times below L F(truncate_sigma)
    become that time"""

    def __post_init__(self) -> None:
        if not self.P_std > 0:
            raise ValueError(f"P_std must be above 0, not {self.P_std}")
        if not self.prob_length > 0:
            raise ValueError(f"prob_length must be above 0, not {self.prob_length}")
        if self.truncate_sigma < 0:
            raise ValueError(f"truncate_sigma must not be negative, as {self.truncate_sigma} is")

    def drawn(self, uniform: Tensor) -> Tensor:
        if not self.truncate_sigma:
            return uniform
        # As published: the level of this time, F^-1(L^2 F), is a little below truncate_sigma.
        return uniform.clamp(min=self.prob_length * self._cdf(float(self.truncate_sigma), math))

    def _sigma(self, t: N, m: Any) -> N:
        return m.exp(self.P_mean + self.P_std * _quantile(_clamp(self.prob_length * t, 0.0, 1.0)))

    def _t(self, sigma: N, m: Any) -> N:
        return _clamp(self._cdf(sigma, m) / self.prob_length, 0.0, 1.0)

    def _cdf(self, sigma: N, m: Any) -> N:
        if isinstance(sigma, float) and sigma == 0:  # of which math has no logarithm
            return 0.0
        z = (m.log(sigma) - self.P_mean) / self.P_std
        return m.erfc(-z / 2**0.5) / 2  # torch.special.ndtr loses the lower tail's digits


def _quantile(p: N) -> N:
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

    beta_min: float = 0.1
    """beta(0)"""
    beta_max: float = 20.0
    """beta(1)"""

    def __post_init__(self) -> None:
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
        return _clamp(root, 0.0, 1.0)


@dataclass(frozen=True)
class VPCosineSchedule(Schedule, kind="vp_cosine"):
    """Variance preserving with alpha = cos(a t + b): log-SNR from `log_snr_max` to `log_snr_min`.

        sigma(t) = tan(a t + b),   b = atan(exp(-log_snr_max / 2)),
                                   a = atan(exp(-log_snr_min / 2)) - b

    The cosine schedule (Nichol & Dhariwal 2021) in the form of Salimans & Ho 2022
    (arXiv 2202.00512), whose truncation keeps sigma(1) finite: 22026 at the defaults.
    """

    log_snr_min: float = -20.0
    """log(alpha^2 / sigma^2) at t = 1"""
    log_snr_max: float = 20.0
    """and at t = 0"""

    def __post_init__(self) -> None:
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
        return _clamp((m.atan(sigma) - b) / a, 0.0, 1.0)


@dataclass(frozen=True)
class VESchedule(Schedule, kind="ve"):
    """Variance exploding, geometric (Song et al. 2021, arXiv 2011.13456):

    sigma(t) = sigma_min (sigma_max / sigma_min)^t
    """

    sigma_min: float = 0.02
    """sigma(0)"""
    sigma_max: float = 100.0
    """sigma(1)"""

    def __post_init__(self) -> None:
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
        return _clamp(ratio, 0.0, 1.0)


@dataclass(frozen=True)
class DiscreteSchedule(Schedule, kind="discrete"):
    """The noise levels of `num_steps` betas, interpolated in ln sigma between the steps:

        sigma_i = sqrt((1 - abar_i) / abar_i),   abar_i = prod_{j <= i} (1 - beta_j),
        t = i / (num_steps - 1)

    "linear" betas are DDPM's, "scaled_linear" (linear square roots) latent diffusion's, "cosine"
    Nichol & Dhariwal's. `abar` overrides all three. Raises `ValueError` for a last abar of 0 (zero
    terminal SNR), where sigma is infinite.
    """

    betas: Literal["linear", "scaled_linear", "cosine"] = "linear"
    """how beta grows"""
    num_steps: int = 1000
    """number of noise levels"""
    beta_start: float = 1e-4
    """the first beta"""
    beta_end: float = 0.02
    """the last beta"""
    abar: tuple[float, ...] | None = None
    """cumulative products of 1 - beta, instead of the above"""

    discrete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.abar is None and self.num_steps < 2:
            raise ValueError(f"a schedule has at least 2 steps, not {self.num_steps}")
        if not all(0 < abar < 1 for abar in self._abars):
            zero = any(abar <= 0 for abar in self._abars)
            raise ValueError(
                "sigma is infinite at the last step (zero terminal SNR)"
                if zero
                else "the noise levels do not increase from step to step"
            )
        if len(self._abars) < 2 or any(a <= b for a, b in pairwise(self._abars)):
            raise ValueError("the noise levels do not increase from step to step")

    @cached_property
    def _abars(self) -> tuple[float, ...]:
        """abar_i, falling."""
        if self.abar is not None:
            return self.abar
        betas, product, found = self._betas(), 1.0, []
        for beta in betas:
            product *= 1 - beta
            found.append(product)
        return tuple(found)

    def _betas(self) -> list[float]:
        count, first, last = self.num_steps, self.beta_start, self.beta_end
        if self.betas == "cosine":
            f = [
                math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
                for t in evenly(0.0, 1.0, count + 1)
            ]
            return [min(1 - b / a, 0.999) for a, b in pairwise(f)]
        if self.betas == "linear":
            return [first + (last - first) * t for t in evenly(0.0, 1.0, count)]
        roots = first**0.5, last**0.5
        return [(roots[0] + (roots[1] - roots[0]) * t) ** 2 for t in evenly(0.0, 1.0, count)]

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        """sigma_i, rising."""
        return tuple(math.sqrt((1 - abar) / abar) for abar in self._abars)

    @cached_property
    def levels(self) -> Tensor:
        """sigma_i, (num_steps,), float64."""
        import torch

        return torch.tensor(self.sigmas, dtype=torch.float64)

    def drawn(self, uniform: Tensor) -> Tensor:
        """The time of one of the steps, each as likely."""
        count = len(self.sigmas)
        return (uniform * count).floor().clamp(max=count - 1) / (count - 1)

    def share_below(self, sigma: float) -> float:
        """i / N at step i of N."""
        count = len(self.sigmas)
        return self.t_at(sigma) * (count - 1) / count

    def shares(self, count: int) -> tuple[float, ...]:
        """Between two steps, at their geometric mean. Raises `ValueError` for too few steps."""
        return step_shares(self.sigmas, count)

    def drawn_below(self, sigma: float) -> float:
        return bisect.bisect_right(self.sigmas, sigma) / len(self.sigmas)

    @cached_property
    def _kept(self) -> dict[torch.device, Tensor]:
        return {}

    def _logs(self, device: torch.device) -> Tensor:
        """ln sigma_i, sent to each device once: the host would wait for it."""
        if device not in self._kept:
            self._kept[device] = self.levels.log().to(device)
        return self._kept[device]

    @cached_property
    def _own_logs(self) -> tuple[float, ...]:
        return tuple(math.log(sigma) for sigma in self.sigmas)

    def _sigma(self, t: N, m: Any) -> N:
        logs: Any
        if isinstance(t, float):
            logs, place = self._own_logs, t * (len(self.sigmas) - 1)
            low = min(math.floor(place), len(logs) - 2)
            return math.exp(logs[low] + (place - low) * (logs[low + 1] - logs[low]))
        logs = self._logs(t.device)
        place = t * (len(logs) - 1)
        low = place.floor().long().clamp(max=len(logs) - 2)
        return m.lerp(logs[low], logs[low + 1], place - low).exp()

    def _t(self, sigma: N, m: Any) -> N:
        logs: Any
        if isinstance(sigma, float):
            logs = self._own_logs
            log = min(max(math.log(sigma) if sigma else -math.inf, logs[0]), logs[-1])
            high = min(max(bisect.bisect_left(logs, log), 1), len(logs) - 1)
        else:
            logs = self._logs(sigma.device)
            log = sigma.log().clamp(logs[0], logs[-1])
            high = m.searchsorted(logs, log).clamp(1, len(logs) - 1)
        place = high - 1 + (log - logs[high - 1]) / (logs[high] - logs[high - 1])
        return place / (len(logs) - 1)


def evenly(first: float, last: float, count: int) -> list[float]:
    """`count` numbers from first to last, counted from the nearer end, as torch.linspace does."""
    step = (last - first) / (count - 1)
    return [
        first + i * step if i < count // 2 else last - (count - 1 - i) * step for i in range(count)
    ]


def step_shares(sigmas: Sequence[float], count: int) -> tuple[float, ...]:
    """Boundaries between `count` equal shares of some noise levels, 0 left out: each stands between
    two levels, at their geometric mean. Raises `ValueError` for fewer levels than shares."""
    levels = sorted(sigma for sigma in sigmas if sigma > 0)
    if count > len(levels):
        raise ValueError(f"{len(levels)} steps can't be shared by {count} experts")
    places = [round(n * len(levels) / count) for n in range(1, count)]
    return tuple(math.sqrt(levels[at - 1] * levels[at]) for at in places)
