"""Schedules: time t in [0, 1] <-> noise level sigma, both ways.

Training draws t ~ U(0, 1) and asks the schedule for sigma(t); a schedule is thus also the
distribution of noise levels that a network is trained on. Everything here is float64 on the host:
under EDM's distribution sigma = 80 is the quantile 1 - 1.7e-6, which float32 holds to two digits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Schedule(ABC):
    """A strictly increasing map from time in [0, 1] to noise level in [0, inf]."""

    def sigma(self, t: Tensor | float) -> Tensor:
        """Noise level of time t, in t's shape, float64. Raises `ValueError` outside [0, 1]."""
        t = torch.as_tensor(t, dtype=torch.float64)
        if not bool(((t >= 0) & (t <= 1)).all()):
            raise ValueError("time is outside [0, 1]")
        return self._sigma(t)

    def t(self, sigma: Tensor | float) -> Tensor:
        """Time of a noise level, in sigma's shape, float64. Raises `ValueError` below zero."""
        sigma = torch.as_tensor(sigma, dtype=torch.float64)
        if not bool((sigma >= 0).all()):
            raise ValueError("sigma is negative")
        return self._t(sigma)

    @abstractmethod
    def _sigma(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _t(self, sigma: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class QuantileSchedule(Schedule):
    """EDM's noise levels as a schedule: ln sigma ~ N(P_mean, P_std^2) when t ~ U(0, 1).

        sigma(t) = F^-1(t) = exp(P_mean + P_std Phi^-1(t)),   F the log-normal CDF

    Karras et al. 2022 (arXiv 2206.00364), table 1.
    """

    P_mean: float = -1.2
    P_std: float = 1.2

    def _sigma(self, t: Tensor) -> Tensor:
        return (self.P_mean + self.P_std * torch.special.ndtri(t)).exp()

    def _t(self, sigma: Tensor) -> Tensor:
        z = (sigma.log() - self.P_mean) / self.P_std
        return torch.erfc(-z / 2**0.5) / 2  # torch.special.ndtr loses the lower tail's digits


@dataclass(frozen=True)
class VPLinearSchedule(Schedule):
    """Variance preserving with beta linear in time (Ho et al. 2020; Song et al. 2021):

        sigma(t)^2 + 1 = exp(beta_min t + (beta_max - beta_min) t^2 / 2)

    the noise level of x / alpha; sigma(1) = 152 at the defaults.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.expm1(t * (self.beta_min + (self.beta_max - self.beta_min) / 2 * t)).sqrt()

    def _t(self, sigma: Tensor) -> Tensor:
        # The root of the quadratic, in the form that loses no digits for small sigma.
        log = torch.log1p(sigma**2)
        slope = self.beta_max - self.beta_min
        return 2 * log / (self.beta_min + (self.beta_min**2 + 2 * slope * log).sqrt())
