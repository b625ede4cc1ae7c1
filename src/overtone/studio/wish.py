"""What a visitor asks for, held against the studio's limits before anything is computed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from overtone.errors import OvertoneError
from overtone.pipelines.evaluations import evaluations_of
from overtone.pipelines.pipeline import Pipeline
from overtone.pipelines.request import Request, class_number
from overtone.ranges import MOST_SEEDS
from overtone.sizes import sides
from overtone.studio.limits import Limits

LARGEST_SCALE = 1_000


@dataclass(frozen=True)
class Wish:
    """The fields of the form. What is None or empty is the model's own.

    They come from a browser, or from whoever writes to the same address: nothing is taken for
    granted about their types.
    """

    seed: Any = 0
    """The first seed."""
    count: Any = 16
    """The number of images, whose seeds follow each other."""
    classes: Sequence[str] = ()
    """Names or numbers of classes, which the images get in turn."""
    guidance_scale: Any = None
    guidance_low: Any = None
    """The lowest sigma at which guidance acts."""
    guidance_high: Any = None
    """The highest sigma at which guidance acts."""
    high_scale: Any = None
    """The scale of guidance for high frequencies."""
    evaluations: Any = None
    """The function evaluations of an image."""

    def request(self, pipe: Pipeline, limits: Limits) -> Request:
        """The request of a model. Raises `OvertoneError` for one that is beyond the limits."""
        seed, count = _whole("The seed", self.seed), _whole("The number of images", self.count)
        if not 1 <= count <= limits.images:
            raise OvertoneError(f"The number of images is 1 to {limits.images}, not {count}.")
        if not 0 <= seed <= 2**32 - count:
            raise OvertoneError(f"A seed is a whole number from 0 to {2**32 - 1:,}.")
        high, wide = sides(pipe.resolution)
        if count * high * wide > limits.pixels:
            most = max(1, limits.pixels // (high * wide))
            raise OvertoneError(
                f"{count} images of {wide} x {high} px are more than this studio makes at a time:"
                f" ask for {most} at most."
            )
        request = Request(
            range(seed, seed + count),
            self._labels(pipe, count),
            guidance_scale=_scale("The guidance scale", self.guidance_scale),
            guidance_interval=self._interval(),
            guidance_high_scale=_scale("The scale of high frequencies", self.high_scale),
            evaluations=self._evaluations(limits),
            batch_size=count,
        )
        request = pipe.settled(request)
        taken = evaluations_of(pipe, request)
        if taken > limits.evaluations:
            raise OvertoneError(
                f"This takes {taken:g} function evaluations per image, and {limits.evaluations} are"
                " the most here: ask for fewer."
            )
        return request

    def _labels(self, pipe: Pipeline, count: int) -> list[int] | None:
        asked = self.classes
        if isinstance(asked, str) or not isinstance(asked, Sequence):
            asked = [] if asked is None else [asked]
        if not asked or not pipe.num_classes:
            return None
        if len(asked) > MOST_SEEDS or not all(isinstance(name, str) for name in asked):
            raise OvertoneError("Classes are chosen from the list.")
        numbers = [class_number(name, pipe.num_classes, pipe.class_names) for name in asked]
        return [numbers[place % len(numbers)] for place in range(count)]

    def _interval(self) -> tuple[float, float] | None:
        low = _number("The lowest sigma of guidance", self.guidance_low)
        high = _number("The highest sigma of guidance", self.guidance_high)
        if low is None and high is None:
            return None
        return (0.0 if low is None else low, math.inf if high is None else high)

    def _evaluations(self, limits: Limits) -> int | None:
        if _number("The number of evaluations", self.evaluations) is None:
            return None
        asked = _whole("The number of evaluations", self.evaluations)
        if not 1 <= asked <= limits.evaluations:
            raise OvertoneError(
                f"The number of evaluations is 1 to {limits.evaluations}, not {asked}."
            )
        return asked


def _number(what: str, value: Any) -> float | None:
    """A number, or text that is one; None for an empty field."""
    if isinstance(value, str):
        value = value.strip() or None
    if value is None:
        return None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise OvertoneError(f"{what} is a number.")
    return float(value)


def _scale(what: str, value: Any) -> float | None:
    """A scale of guidance that float32 can take."""
    number = _number(what, value)
    if number is not None and abs(number) > LARGEST_SCALE:
        raise OvertoneError(f"{what} is from -{LARGEST_SCALE:,} to {LARGEST_SCALE:,}.")
    return number


def _whole(what: str, value: Any) -> int:
    number = _number(what, value)
    if number is None or number != int(number):
        raise OvertoneError(f"{what} is a whole number.")
    return int(number)
