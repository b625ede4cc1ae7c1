"""How strongly, when and where guidance acts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from overtone.ranges import (
    Finite,
    LevelOrInfinity,
    LevelOrZero,
    OpenShare,
    Positive,
    SizeOrNone,
    check_fields,
)


@dataclass(frozen=True)
class GuidanceSettings:
    """How strongly, when and where guidance acts.

    Examples:
        >>> limited = GuidanceSettings(scale=2.0, interval=(0.2, 5.0))
        >>> GuidanceSettings().acts, limited.acts
        (False, True)
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    scale: Finite = 1.0
    """The scale of classifier-free guidance. 1 means no guidance."""
    interval: tuple[LevelOrZero, LevelOrInfinity] | None = None
    """The lowest and the highest sigma at which guidance acts. If it is not given, guidance acts at
    every sigma."""
    channels: tuple[SizeOrNone, ...] | None = None
    """The channels that guidance acts on, counted from 0. If none are given, it acts on all of
    them."""
    power: Positive | None = None
    """The power p of DiffiT's power-cosine schedule of the guidance scale. If it is not given, the
    scale is constant."""
    high_scale: Finite | None = None
    """The guidance scale of the high frequencies; `scale` is then that of the low ones (Sadat et
    al. 2025, arXiv 2506.19713). If it is not given, both have the same scale."""
    band: OpenShare = 0.5
    """The share of the DCT's frequencies on each axis, counted from the lowest, that count as low
    frequencies."""

    def __post_init__(self) -> None:
        check_fields(self, lambda name: f"guidance_{name} must be")
        if self.interval is not None and not self.interval[0] < self.interval[1]:
            raise ValueError(f"guidance_interval is (lowest, highest) sigma, not {self.interval}")
        acts = (0,) if self.channels is None else self.channels
        if not acts or len(set(acts)) < len(acts):
            raise ValueError(f"guidance acts on different channels, counted from 0, not {acts}")

    @property
    def acts(self) -> bool:
        """Whether it changes anything."""
        return self.scale != 1.0 or self.high_scale not in (None, 1.0)

    def scale_at(self, time: float) -> float:
        """s(t) = 1 + (s - 1) (1 - cos(pi (1 - t)^p)) / 2, t in [0, 1) the share of the schedule's
        steps below; the scale s itself without a power."""
        return 1 + (self.scale - 1) * self._strength(time)

    def high_scale_at(self, time: float) -> float:
        """The same of the high frequencies."""
        high = self.scale if self.high_scale is None else self.high_scale
        return 1 + (high - 1) * self._strength(time)

    def _strength(self, time: float) -> float:
        if self.power is None:
            return 1.0
        return (1 - math.cos(math.pi * (1 - time) ** self.power)) / 2
