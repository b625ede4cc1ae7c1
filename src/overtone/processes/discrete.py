"""Schedules of numbered steps, DDPM's: time is the number of a step over that of the last."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from overtone.processes.schedule import N, Schedule
from overtone.ranges import Beta, Share, Steps

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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
    """How beta grows from step to step: linear; scaled_linear, whose square root grows linearly; or
    cosine."""
    num_steps: Steps = 1000
    """The number of noise levels."""
    beta_start: Beta = 1e-4
    """The first beta."""
    beta_end: Beta = 0.02
    """The last beta."""
    abar: tuple[Share, ...] | None = None
    """The cumulative products of 1 - beta themselves, instead of the settings above."""

    discrete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
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
            from overtone.precision import widest

            self._kept[device] = self.levels.log().to(device, widest(device))
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
