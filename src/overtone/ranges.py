"""What a setting may be, said where it is defined and checked where it is made.

    lr: Annotated[float, above(0)] = 1e-3
    dropout: Annotated[float, within(0, 1)] = 0.0
    widths: tuple[Annotated[int, at_least(1)], ...] = (64, 128)

`check_fields` compares the values of a dataclass with the types and ranges of its fields. Numbers
are finite, whether they have a range or not, unless the range takes infinity.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

SQUARE_OR_PAIR = "square or pair"
"""marks a number that stands for two that are alike, or a pair of others (`overtone.sizes`)"""
LARGEST_WHOLE = 2**53
"""up to here every whole number is a float as well"""
FAR = 10_000
"""ends from here on only keep numbers from being absurd"""


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; the ends belong to it unless they are `open`."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    infinite: bool = False
    """Whether infinity is allowed where there is no upper limit."""

    def __contains__(self, value: float) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            return self.infinite and value > 0
        low = value > self.low if self.open_low else value >= self.low
        return low and (value < self.high if self.open_high else value <= self.high)

    def wanted(self, value: float) -> str:
        """What a value outside should have been, as in "must be above 0". Far ends, which only
        keep numbers from being absurd, are named where one is passed."""
        low = f"{'above' if self.open_low else 'at least'} {_told(self.low)}"
        high = f"{'below' if self.open_high else 'at most'} {_told(self.high)}"
        if self.low == -math.inf or self.high >= FAR:
            if -math.inf < self.low and value <= self.low:
                return low
            return high if self.high < value < math.inf else "finite"
        if self.high > 1 and self.open_low:
            return f"above {_told(self.low)} and at most {_told(self.high)}"
        if self.high > 1:
            return f"from {_told(self.low)} to {_told(self.high)}"
        ends = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"in {ends[0]}{_told(self.low)}, {_told(self.high)}{ends[1]}"

    @property
    def words(self) -> str:
        """The range as help tells it, as in "above 0 and below 1", without a far end; "" where
        that leaves nothing."""
        far = self.high >= FAR
        if far and self.low == -math.inf:
            return ""
        if far:
            return f"{'above' if self.open_low else 'at least'} {_told(self.low)}"
        if self.open_low or self.open_high:
            low = f"{'above' if self.open_low else 'at least'} {_told(self.low)}"
            return f"{low} and {'below' if self.open_high else 'at most'} {_told(self.high)}"
        return f"from {_told(self.low)} to {_told(self.high)}"


def _told(number: float) -> str:
    """A number with commas, or as a power of ten where so many digits are hard to read."""
    power = math.log10(number) if math.isfinite(number) and number >= 1e12 else 0.5
    return f"10^{power:.0f}" if power.is_integer() else f"{number:,}"


FINITE = Range()


def above(low: float, high: float = math.inf, *, infinite: bool = False) -> Range:
    """The numbers above `low`, up to `high`."""
    return Range(low, high, open_low=True, infinite=infinite)


def at_least(low: float, *, infinite: bool = False) -> Range:
    """The numbers from `low` on."""
    return Range(low, infinite=infinite)


def within(low: float, high: float) -> Range:
    """The numbers from `low` to `high`."""
    return Range(low, high)


def below(high: float, low: float = 0) -> Range:
    """The numbers from `low` on that are below `high`."""
    return Range(low, high, open_high=True)


MOST_SEEDS = 1_000_000
"""images that are asked for at a time: longer lists only take memory"""
MANY = 10**15
SIDE = 100_000

Count = Annotated[int, within(1, MANY)]
"""a number of things, at least one"""
Whole = Annotated[int, within(0, MANY)]
"""a number of things, perhaps none"""
Size = Annotated[int, within(1, SIDE)]
"""pixels a side, channels, features: what arrays of memory are made of"""
SizeOrNone = Annotated[int, within(0, SIDE)]
"""the same, 0 standing for something else"""
Depth = Annotated[int, within(1, 1000)]
"""blocks one behind the other"""
Ratio = Annotated[float, above(0, 1000)]
LogSNR = Annotated[float, within(-1000, 1000)]
Seed = Annotated[int, within(0, 2**63 - 1)]
Positive = Annotated[float, above(0)]
NotNegative = Annotated[float, at_least(0)]
Share = Annotated[float, within(0, 1)]
"""a probability, or a part of a whole"""
OpenShare = Annotated[float, Range(0, 1, open_low=True, open_high=True)]
"""a part of a whole that is neither nothing nor all of it"""
Part = Annotated[float, below(1)]
"""a share that is not the whole"""
Dropout = Annotated[float, below(1)]
Finite = Annotated[float, FINITE]
HIGHEST_LEVEL = 1e12
Level = Annotated[float, above(0, HIGHEST_LEVEL)]
"""a noise level, sigma"""
LevelOrInfinity = Annotated[float, at_least(0, infinite=True)]
"""the upper end of an interval of noise levels"""
LevelOrZero = Annotated[float, within(0, HIGHEST_LEVEL)]
Weight = Annotated[float, within(-1000, 1000)]
"""of an earlier estimate"""
Rho = Annotated[float, within(0.1, 1000)]
"""EDM's exponent of a grid of noise levels"""
Time = Annotated[float, below(1)]
"""a time that is not yet pure noise"""
Decay = Annotated[float, below(1)]
"""the share of a running mean that is kept at a step"""
Steps = Annotated[int, within(1, 100_000)]
"""noise levels of a sampler or a schedule: more is not obeyed"""
Batch = Annotated[int, within(1, 65_536)]
"""images at a time: more are not made, whoever asks"""
Replicates = Annotated[int, within(0, 10_000)]
"""random halves of images"""
Neighbours = Annotated[int, within(1, 7)]
"""the rank of a neighbour"""
Repeats = Annotated[int, within(1, 1000)]
"""times that something is done again"""
Length = Annotated[float, within(0.005, 0.288)]
"""the standard deviation of an average's profile, as a share of the images seen"""
Beta = Annotated[float, below(1)]
BetaRate = Annotated[float, within(0, 1000)]
Channels = Annotated[int, within(1, 3)]
"""channels of an image"""
Columns = Annotated[int, within(1, 10_000)]
Tap = Annotated[int, within(-1000, 1000)]
Degrees = Annotated[float, within(0, 180)]
Workers = Annotated[int, within(0, 1024)]
Threads = Annotated[int, within(0, 1024)]
Port = Annotated[int, within(0, 65_535)]


def must_be(name: str) -> str:
    """How a message about a field begins."""
    return f"{name} must be"


def check_fields(settings: Any, begin: Callable[[str], str] = must_be) -> None:
    """Raises `ValueError` for the first field of a dataclass whose value is of another type than
    it says, or outside its range; `begin` begins its message. Numbers of numpy and torch become
    Python's."""
    kind: Any = type(settings)
    for name, check in _checks(kind).items():
        value = getattr(settings, name)
        kept = check(begin(name), value)
        if kept is not value:
            object.__setattr__(settings, name, kept)


Check = Callable[[str, Any], Any]
"""(beginning of the message, value) -> the value to keep; raises `ValueError`"""


@cache
def _checks(kind: Any) -> dict[str, Check]:
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except NameError:  # a kind of somebody's own, which is refused with the reason when it is read
        return {}
    fields = (f.name for f in dataclasses.fields(kind) if f.metadata.get("saved", True))
    found = {name: _check_of(hints[name]) for name in fields}
    return {name: check for name, check in found.items() if check is not None}


def ranges_of(kind: type) -> Iterator[tuple[str, type, Range | None]]:
    """Every number in the fields of a dataclass: the field, int or float, and its range."""
    hints = typing.get_type_hints(kind, include_extras=True)
    saved = (field for field in dataclasses.fields(kind) if field.metadata.get("saved", True))
    for field in saved:
        for number, limits in _numbers_in(hints[field.name], None):
            yield field.name, number, limits


def _numbers_in(hint: Any, limits: Range | None) -> Iterator[tuple[type, Range | None]]:
    if get_origin(hint) is Annotated:
        inner, *more = get_args(hint)
        limits = next((entry for entry in more if isinstance(entry, Range)), limits)
        yield from _numbers_in(inner, limits)
    elif hint in (int, float):
        yield hint, limits
    elif get_origin(hint) in (Union, types.UnionType, tuple):
        for part in get_args(hint):
            yield from _numbers_in(part, limits)


def _check_of(hint: Any, limits: Range = FINITE) -> Check | None:
    """The check of a type; None for types that check themselves."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        inner, *more = parts
        if SQUARE_OR_PAIR in more:
            return _pair_check(inner)
        return _check_of(inner, next((m for m in more if isinstance(m, Range)), limits))
    if hint is int:
        return lambda begin, value: _whole(begin, value, limits)
    if hint is float:
        return lambda begin, value: _real(begin, value, limits)
    if hint in (str, bool):
        return lambda begin, value: _instance(begin, value, hint)
    if origin is Literal:
        return lambda begin, value: _one_of(begin, value, parts)
    if origin is tuple:
        return _tuple_check(parts, limits)
    if origin in (Union, types.UnionType) and len(parts) == 2 and type(None) in parts:
        inner = _check_of(next(p for p in parts if p is not type(None)), limits)
        if inner is not None:
            return lambda begin, value: None if value is None else inner(begin, value)
    return None


def _pair_check(hint: Any) -> Check | None:
    one, pair = (_check_of(part) for part in get_args(hint))
    assert one is not None and pair is not None  # noqa: PT018

    def check(begin: str, value: Any) -> Any:
        if not isinstance(value, tuple | list):
            return one(begin, value)
        height, width = pair(begin, value)
        if height == width:
            return height
        return value if isinstance(value, tuple) else (height, width)

    return check


def _tuple_check(parts: tuple[Any, ...], limits: Range) -> Check | None:
    checks = [_check_of(part, limits) for part in parts if part is not Ellipsis]
    if None in checks:
        return None
    wanted = typing.cast("list[Check]", checks)

    def check(begin: str, value: Any) -> Any:
        if not isinstance(value, tuple | list):
            raise ValueError(f"{begin} a tuple, not {_shown(value)}")
        own = wanted * len(value) if Ellipsis in parts else wanted
        if len(own) != len(value):
            raise ValueError(f"{begin} {len(own)} values, not {len(value)}")
        kept = tuple(part(begin, entry) for part, entry in zip(own, value, strict=True))
        same = isinstance(value, tuple) and all(a is b for a, b in zip(kept, value, strict=True))
        return value if same else kept

    return check


def _whole(begin: str, value: Any, limits: Range) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # a tensor of several numbers, say
        raise ValueError(f"{begin} a whole number, not {_shown(value)}") from None
    return _in_range(begin, number, limits)


def _real(begin: str, value: Any, limits: Range) -> float:
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        number = value if isinstance(value, int | float) else float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{begin} a number, not {_shown(value)}") from None
    if isinstance(number, int) and abs(number) > LARGEST_WHOLE:
        raise ValueError(f"{begin} a number that floats hold exactly, not {_shown(value)}")
    return _in_range(begin, number, limits)


def _in_range(begin: str, value: Any, limits: Range) -> Any:
    if value not in limits:
        raise ValueError(f"{begin} {limits.wanted(value)}, not {_shown(value)}")
    return value


def _instance(begin: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        what = {str: "a text", bool: "true or false"}[kind]
        raise ValueError(f"{begin} {what}, not {_shown(value)}")
    return value


def _one_of(begin: str, value: Any, known: tuple[Any, ...]) -> Any:
    if value not in known:
        raise ValueError(f"{begin} one of {', '.join(map(str, known))}, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:50]}..."
