"""Speed, side by side: what is compared takes turns, so that a busy machine slows all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

LEAST = 3
"""rounds, whatever they take"""


@dataclass(frozen=True)
class Turns:
    """The seconds of each task, round by round."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, other: str) -> tuple[float, float, float]:
        """How many times as fast `name` is as `other`: the median over the rounds, and the lowest
        and the highest quartile."""
        pairs = zip(self.seconds[other], self.seconds[name], strict=True)
        ratios = sorted(slow / quick for slow, quick in pairs)
        if len(ratios) < 4:
            return statistics.median(ratios), ratios[0], ratios[-1]
        low, middle, high = statistics.quantiles(ratios, n=4)
        return middle, low, high


def in_turns(tasks: Mapping[str, Callable[[], object]], seconds: float) -> Turns:
    """Run the tasks in turns, until `seconds` are spent on the slowest, and each begins a round as
    often as the others. The first run of each, which compiles and allocates, is left out."""
    names = list(tasks)
    times: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        tasks[name]()
    wait()
    while min(map(len, times.values())) < LEAST or max(map(sum, times.values())) < seconds:
        for name in names:
            began = time.perf_counter()
            tasks[name]()
            wait()
            times[name].append(time.perf_counter() - began)
        names = [*names[1:], names[0]]
    return Turns(times)


def wait() -> None:
    """Until a GPU has done what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
