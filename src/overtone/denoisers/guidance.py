"""How strongly, when and where guidance acts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class GuidanceSettings:
    """How strongly, when and where guidance acts."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    scale: float = 1.0
    """1: none"""
    interval: tuple[float, float] | None = None
    """lowest and highest sigma at which it acts; none: all"""
    channels: tuple[int, ...] | None = None
    """channels it acts on, the first being 0; none: all"""
    power: float | None = None
    """p of DiffiT's power-cosine schedule; none: the scale is constant"""

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ValueError(f"guidance_scale is a number, not {self.scale}")
        if self.interval is not None and not self.interval[0] < self.interval[1]:
            raise ValueError(f"guidance_interval is (lowest, highest) sigma, not {self.interval}")
        acts = (0,) if self.channels is None else self.channels
        if not acts or min(acts) < 0 or len(set(acts)) < len(acts):
            raise ValueError(f"guidance acts on different channels, counted from 0, not {acts}")
        if self.power is not None and not self.power > 0:
            raise ValueError(f"the power of guidance must be above 0, not {self.power}")

    def scale_at(self, time: float) -> float:
        """s(t) = 1 + (s - 1) (1 - cos(pi (1 - t)^p)) / 2, t in [0, 1) the share of the schedule's
        steps below; the scale s itself without a power."""
        if self.power is None:
            return self.scale
        return 1 + (self.scale - 1) * (1 - math.cos(math.pi * (1 - time) ** self.power)) / 2
