"""Schedules: time t in [0, 1] <-> noise level sigma, both ways.

Training draws t ~ U(0, 1) and asks the schedule for sigma(t); a schedule is thus also the
distribution of noise levels that a network is trained on. Everything here is float64 on the host:
under EDM's distribution sigma = 80 is the quantile 1 - 1.7e-6, which float32 holds to two digits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import pydantic
import torch
from torch import Tensor


class Schedule(ABC):
    """A strictly increasing map from time in [0, 1] to noise level in [0, inf]."""

    def sigma(self, t: Tensor | float) -> Tensor:
        """Noise level of time t, in t's shape, float64. Raises `ValueError` outside [0, 1]."""
        t = torch.as_tensor(t, dtype=torch.float64)
        _check(t, (t >= 0) & (t <= 1), "time is outside [0, 1]")
        return self._sigma(t)

    def t(self, sigma: Tensor | float) -> Tensor:
        """Time of a noise level, in sigma's shape, float64. Raises `ValueError` below zero.

        Levels that the schedule does not reach have the time of its nearer end.
        """
        sigma = torch.as_tensor(sigma, dtype=torch.float64)
        _check(sigma, sigma >= 0, "sigma is negative")
        return self._t(sigma)

    def drawn(self, uniform: Tensor) -> Tensor:
        """Times of training from draws of U(0, 1): those themselves, where time is continuous."""
        return uniform

    def share_below(self, sigma: float) -> float:
        """The share of training's noise levels that lie below one: its time, where continuous."""
        return float(self.t(sigma))

    def drawn_below(self, sigma: float) -> float:
        """The probability that training draws a level up to and with this one."""
        return self.share_below(sigma) if 0 < sigma < math.inf else float(sigma > 0)

    @abstractmethod
    def _sigma(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _t(self, sigma: Tensor) -> Tensor: ...


def _check(values: Tensor, good: Tensor, message: str) -> None:
    # To look at a device's numbers would make the host wait for it.
    if values.device.type == "cpu" and not bool(good.all()):
        raise ValueError(message)


@dataclass(frozen=True)
class QuantileSchedule(Schedule):
    """EDM's noise levels as a schedule: ln sigma ~ N(P_mean, P_std^2) when t ~ U(0, 1).

        sigma(t) = F^-1(L t) = exp(P_mean + P_std Phi^-1(L t)),   F the log-normal CDF

    Karras et al. 2022 (arXiv 2206.00364), table 1, where L = `prob_length` = 1. Relay diffusion's
    second stage ends lower: it is shown only the first L of the levels (arXiv 2309.03350).
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

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
    kind: Literal["quantile"] = "quantile"

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
        return uniform.clamp(min=self.prob_length * self._cdf(self.truncate_sigma).item())

    def _sigma(self, t: Tensor) -> Tensor:
        return (
            self.P_mean + self.P_std * torch.special.ndtri((self.prob_length * t).clamp(max=1.0))
        ).exp()

    def _t(self, sigma: Tensor) -> Tensor:
        return (self._cdf(sigma) / self.prob_length).clamp(max=1.0)

    def _cdf(self, sigma: Tensor | float) -> Tensor:
        z = (torch.as_tensor(sigma, dtype=torch.float64).log() - self.P_mean) / self.P_std
        return torch.erfc(-z / 2**0.5) / 2  # torch.special.ndtr loses the lower tail's digits


@dataclass(frozen=True)
class VPLinearSchedule(Schedule):
    """Variance preserving with beta linear in time (Ho et al. 2020; Song et al. 2021):

        sigma(t)^2 + 1 = exp(beta_min t + (beta_max - beta_min) t^2 / 2)

    the noise level of x / alpha; sigma(1) = 152 at the defaults.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    beta_min: float = 0.1
    """beta(0)"""
    beta_max: float = 20.0
    """beta(1)"""
    kind: Literal["vp_linear"] = "vp_linear"

    def __post_init__(self) -> None:
        if not 0 <= self.beta_min < self.beta_max:
            raise ValueError(
                f"0 <= beta_min < beta_max does not hold: {self.beta_min}, {self.beta_max}"
            )

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.expm1(t * (self.beta_min + (self.beta_max - self.beta_min) / 2 * t)).sqrt()

    def _t(self, sigma: Tensor) -> Tensor:
        # The root of the quadratic, in the form that loses no digits for small sigma.
        log = torch.log1p(sigma**2)
        slope = self.beta_max - self.beta_min
        root = 2 * log / (self.beta_min + (self.beta_min**2 + 2 * slope * log).sqrt())
        return root.clamp(max=1.0)


@dataclass(frozen=True)
class VPCosineSchedule(Schedule):
    """Variance preserving with alpha = cos(a t + b): log-SNR from `log_snr_max` to `log_snr_min`.

        sigma(t) = tan(a t + b),   b = atan(exp(-log_snr_max / 2)),
                                   a = atan(exp(-log_snr_min / 2)) - b

    The cosine schedule (Nichol & Dhariwal 2021) in the form of Salimans & Ho 2022
    (arXiv 2202.00512), whose truncation keeps sigma(1) finite: 22026 at the defaults.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    log_snr_min: float = -20.0
    """log(alpha^2 / sigma^2) at t = 1"""
    log_snr_max: float = 20.0
    """and at t = 0"""
    kind: Literal["vp_cosine"] = "vp_cosine"

    def __post_init__(self) -> None:
        if not self.log_snr_min < self.log_snr_max:
            raise ValueError(
                f"log_snr_min < log_snr_max does not hold: {self.log_snr_min}, {self.log_snr_max}"
            )

    @property
    def _line(self) -> tuple[float, float]:
        b = math.atan(math.exp(-self.log_snr_max / 2))
        return math.atan(math.exp(-self.log_snr_min / 2)) - b, b

    def _sigma(self, t: Tensor) -> Tensor:
        a, b = self._line
        return torch.tan(a * t + b)

    def _t(self, sigma: Tensor) -> Tensor:
        a, b = self._line
        return ((torch.atan(sigma) - b) / a).clamp(0.0, 1.0)


@dataclass(frozen=True)
class VESchedule(Schedule):
    """Variance exploding, geometric (Song et al. 2021, arXiv 2011.13456):

    sigma(t) = sigma_min (sigma_max / sigma_min)^t
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    sigma_min: float = 0.02
    """sigma(0)"""
    sigma_max: float = 100.0
    """sigma(1)"""
    kind: Literal["ve"] = "ve"

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"0 < sigma_min < sigma_max does not hold: {self.sigma_min}, {self.sigma_max}"
            )

    def _sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def _t(self, sigma: Tensor) -> Tensor:
        ratio = torch.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)
        return ratio.clamp(0.0, 1.0)


@dataclass(frozen=True)
class DiscreteSchedule(Schedule):
    """The noise levels of `num_steps` betas, interpolated in ln sigma between the steps:

        sigma_i = sqrt((1 - abar_i) / abar_i),   abar_i = prod_{j <= i} (1 - beta_j),
        t = i / (num_steps - 1)

    "linear" betas are DDPM's, "scaled_linear" (linear square roots) latent diffusion's, "cosine"
    Nichol & Dhariwal's. `abar` overrides all three. Raises `ValueError` for a last abar of 0 (zero
    terminal SNR), where sigma is infinite.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

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
    kind: Literal["discrete"] = "discrete"

    def __post_init__(self) -> None:
        if self.abar is None and self.num_steps < 2:
            raise ValueError(f"a schedule has at least 2 steps, not {self.num_steps}")
        levels = self.levels
        if not torch.isfinite(levels).all():
            raise ValueError("sigma is infinite at the last step (zero terminal SNR)")
        if not bool((levels.diff() > 0).all()) or levels[0] <= 0:
            raise ValueError("the noise levels do not increase from step to step")

    @cached_property
    def levels(self) -> Tensor:
        """sigma_i, (num_steps,), float64."""
        abar = torch.tensor(self.abar or self._abar(), dtype=torch.float64)
        return ((1 - abar) / abar).sqrt()

    def drawn(self, uniform: Tensor) -> Tensor:
        """The time of one of the steps, each as likely."""
        count = len(self.levels)
        return (uniform * count).floor().clamp(max=count - 1) / (count - 1)

    def share_below(self, sigma: float) -> float:
        """i / N at step i of N."""
        count = len(self.levels)
        return float(self.t(sigma)) * (count - 1) / count

    def drawn_below(self, sigma: float) -> float:
        return float((self.levels <= sigma).double().mean())

    def _abar(self) -> list[float]:
        count, first, last = self.num_steps, self.beta_start, self.beta_end
        ramp = torch.linspace(0, 1, count, dtype=torch.float64)
        if self.betas == "cosine":
            t = torch.linspace(0, 1, count + 1, dtype=torch.float64)
            f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
        elif self.betas == "linear":
            betas = first + (last - first) * ramp
        else:
            betas = (first**0.5 + (last**0.5 - first**0.5) * ramp) ** 2
        return (1 - betas).cumprod(0).tolist()

    @cached_property
    def _kept(self) -> dict[torch.device, Tensor]:
        return {}

    def _logs(self, device: torch.device) -> Tensor:
        """ln sigma_i, sent to each device once: the host would wait for it."""
        if device not in self._kept:
            self._kept[device] = self.levels.log().to(device)
        return self._kept[device]

    def _sigma(self, t: Tensor) -> Tensor:
        logs = self._logs(t.device)
        place = t * (len(logs) - 1)
        low = place.floor().long().clamp(max=len(logs) - 2)
        return torch.lerp(logs[low], logs[low + 1], place - low).exp()

    def _t(self, sigma: Tensor) -> Tensor:
        logs = self._logs(sigma.device)
        log = sigma.log().clamp(logs[0], logs[-1])
        high = torch.searchsorted(logs, log).clamp(1, len(logs) - 1)
        place = high - 1 + (log - logs[high - 1]) / (logs[high] - logs[high - 1])
        return place / (len(logs) - 1)


AnySchedule = Annotated[
    QuantileSchedule | VPLinearSchedule | VPCosineSchedule | VESchedule | DiscreteSchedule,
    pydantic.Field(discriminator="kind"),
]
"""A schedule in settings."""
