"""Intervals of noise levels, one an expert, counted from the clean image.

MEME (Lee et al. 2023, arXiv 2306.04990). They are of sigma, so that any denoiser can be routed to,
whatever its own time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from overtone.processes.schedule import Schedule, VPLinearSchedule

Interval = tuple[float, float]


def time_shares(experts: int, schedule: Schedule | None = None) -> tuple[float, ...]:
    """The boundaries of equal shares of a schedule's time, MEME's intervals: sigma 0.95, 3.4 and 17
    for four experts of continuous VP time, the default."""
    schedule = schedule or VPLinearSchedule()
    return schedule.shares(experts)


def intervals_of(boundaries: Sequence[float]) -> tuple[Interval, ...]:
    """(0, b_1], (b_1, b_2], ... (b_N-1, inf). Raises `ValueError` if they don't rise from 0."""
    edges = (0.0, *boundaries, math.inf)
    if any(not low < high for low, high in pairwise(edges)):
        raise ValueError(
            "boundaries between experts rise from above 0, the expert of the clean image first,"
            f" not {', '.join(f'{b:g}' for b in boundaries)}"
        )
    return tuple(pairwise(edges))


def check_intervals(intervals: Sequence[Interval], experts: int) -> None:
    """Raises `ValueError` unless there is one interval an expert, and they cover (0, inf) once."""
    if len(intervals) != experts or not experts:
        raise ValueError(f"{len(intervals)} intervals of noise levels for {experts} experts")
    for n, (low, high) in enumerate(intervals, 1):
        if not low < high:
            raise ValueError(f"the interval of expert {n} is empty: ({low:g}, {high:g}]")
    for n, ((_, high), (low, _)) in enumerate(pairwise(intervals), 1):
        if high != low:
            what = "overlap" if low < high else "leave a gap"
            raise ValueError(
                f"the intervals of experts {n} and {n + 1} {what}: one ends at sigma {high:g}, the"
                f" next begins at {low:g}"
            )
    ends = intervals[0][0], intervals[-1][1]
    if ends != (0.0, math.inf):
        raise ValueError(
            "the experts' intervals reach from sigma {:g} to {:g}, not from 0 to inf".format(*ends)
        )
