"""Sizes of images: a number of pixels a side, or height and width.

A square is a number wherever it is written, so that a setting, a file and a fingerprint have one
form of it; anything else is a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from overtone.ranges import SIDE, SQUARE_OR_PAIR, within

Resolution = Annotated[
    Annotated[int, within(1, SIDE)]
    | tuple[Annotated[int, within(1, SIDE)], Annotated[int, within(1, SIDE)]],
    SQUARE_OR_PAIR,
]
"""pixels a side, or height and width"""
ResolutionOrNone = Annotated[
    Annotated[int, within(0, SIDE)]
    | tuple[Annotated[int, within(1, SIDE)], Annotated[int, within(1, SIDE)]],
    SQUARE_OR_PAIR,
]
"""the same, 0 standing for one that is not known"""


def sides(resolution: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width."""
    return (resolution, resolution) if isinstance(resolution, int) else resolution


def resolution_of(height: int, width: int) -> int | tuple[int, int]:
    """The resolution of images of some height and width."""
    return height if height == width else (height, width)


def scaled(resolution: int | tuple[int, int], factor: int) -> int | tuple[int, int]:
    """A resolution so many times as large."""
    height, width = sides(resolution)
    return resolution_of(height * factor, width * factor)


def divided(resolution: int | tuple[int, int], factor: int) -> int | tuple[int, int]:
    """A resolution so many times smaller, rounded down."""
    height, width = sides(resolution)
    return resolution_of(height // factor, width // factor)


def divides(resolution: int | tuple[int, int], factor: int) -> bool:
    """Whether both sides are multiples of a number."""
    return not any(side % factor for side in sides(resolution))


def by(resolution: int | tuple[int, int]) -> str:
    """A resolution as height x width."""
    return "{} x {}".format(*sides(resolution))


def shown(resolution: int | tuple[int, int]) -> str:
    """A resolution as people read it: height x width of one that is no square."""
    return str(resolution) if isinstance(resolution, int) else "{} x {}".format(*resolution)


def rescaled(
    levels: Sequence[int], before: int | tuple[int, int], after: int | tuple[int, int]
) -> tuple[int, ...]:
    """The smaller sides of a network's levels, once its images have another size."""
    was, now = min(sides(before)), min(sides(after))
    return tuple(side * now // was for side in levels if side * now >= was)
