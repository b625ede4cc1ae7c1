"""Seeds as text, like 0-63 or 3,5,8-12."""

from __future__ import annotations

from collections.abc import Sequence

from overtone.errors import OvertoneError
from overtone.ranges import MOST_SEEDS


def text_of(seeds: Sequence[int]) -> str:
    """Seeds as text; `seeds_of` is the inverse."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def seeds_of(text: str) -> list[int]:
    """'3,5,8-12' as [3, 5, 8, 9, 10, 11, 12]; refuses what is not a seed, repetitions, and more
    than `MOST_SEEDS`."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise OvertoneError(f"--seeds is like 0-63 or 3,5,8-12, not '{text:.80}'.")
        ends = (first, last or first)
        if max(map(len, ends)) > 10 or not int(ends[0]) <= int(ends[1]) < 2**32:
            raise OvertoneError(
                f"--seeds {text:.80}: seeds are in 0..{2**32 - 1}, first before last."
            )
        count = len(seeds) + int(ends[1]) - int(ends[0]) + 1
        if count > MOST_SEEDS:
            raise OvertoneError(
                f"--seeds {text:.80} names {count:,} seeds, and {MOST_SEEDS:,} are the most: take"
                " them in several commands."
            )
        seeds += range(int(ends[0]), int(ends[1]) + 1)
    if len(set(seeds)) < len(seeds):
        raise OvertoneError(f"--seeds {text:.80} names a seed twice.")
    return seeds
