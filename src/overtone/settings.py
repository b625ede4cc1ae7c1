"""Settings are frozen dataclasses; this module is their strict passage to and from JSON.

A key that no field carries, a value of the wrong type and a missing key are each refused with the
place where they stand, so that a misspelt setting never trains a model with the default instead.
Members of a family (`overtone.registry`) carry the name of their `kind`.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any, TypeVar

from overtone.errors import OvertoneError
from overtone.registry import Kind, check_registered

S = TypeVar("S")


def dump(settings: Any) -> dict[str, Any]:
    """A dataclass as a plain JSON dictionary (tuples become lists).

    Raises `OvertoneError` for a member of a family that could not be loaded again.
    """
    try:
        return json.loads(json.dumps(_plain_of(settings)))
    except TypeError as error:
        name = type(settings).__name__
        raise OvertoneError(f"the settings {name} can't be saved as JSON: {error}.") from None


def _plain_of(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain_of(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _plain_of(entry) for key, entry in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    saved = [f.name for f in dataclasses.fields(value) if f.metadata.get("saved", True)]
    plain = {name: _plain_of(getattr(value, name)) for name in saved}
    if not isinstance(value, Kind):
        return plain
    check_registered(value)
    module = {"module": value.origin} if value.origin else {}
    return {"kind": value.kind} | module | plain


def jsonable(config: Any) -> dict[str, Any]:
    """The settings of another library's object as JSON, without what it keeps for itself."""
    return {key: _known(value) for key, value in config.items() if not key.startswith("_")}


def _known(value: Any) -> Any:
    if hasattr(value, "tolist"):  # arrays, and numbers of numpy and torch
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_known(entry) for entry in value]
    return value if isinstance(value, str | int | float | None) else repr(value)


def load(kind: type[S], data: Any, where: str) -> S:
    """The dataclass `kind`, or a member of that family, from a JSON dictionary; `where` names its
    origin in error messages.

    Raises `OvertoneError` naming the first offending key, and the nearest known one.
    """
    import pydantic

    try:
        safe = _translated(data, _TO_TEXT)
        text = json.dumps(safe)
    except (TypeError, ValueError, RecursionError) as error:
        raise OvertoneError(f"{where}: it can't be written as JSON ({error}).") from None
    try:
        reader: Any = _reader(kind)  # type: ignore[arg-type]
        read = reader.validate_json(text, strict=True)
        return read if safe == data else _translated(read, _TO_BYTES)
    except pydantic.ValidationError as error:
        raise OvertoneError(f"{where}: {_explain(kind, error.errors()[0])}") from None
    except OvertoneError as error:
        raise OvertoneError(f"{where}: {error}") from None


# Bytes of file names that are no text are lone surrogates in Python, which pydantic does not take:
# on the way through it they are characters of the private use area.
_TO_TEXT = {0xDC00 + byte: 0xF700 + byte for byte in range(0x80, 0x100)}
_TO_BYTES = {there: here for here, there in _TO_TEXT.items()}


def _translated(value: Any, table: dict[int, int]) -> Any:
    if isinstance(value, str):
        return value.translate(table)
    if isinstance(value, dict):
        return {_translated(key, table): _translated(entry, table) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_translated(entry, table) for entry in value)
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            own = getattr(value, field.name)
            object.__setattr__(value, field.name, _translated(own, table))
    return value


@cache
def _reader(kind: type) -> Any:
    import pydantic

    return pydantic.TypeAdapter(kind)


def fingerprint(facts: Any) -> str:
    """Sixteen hexadecimal digits that change with anything in a JSON value; 2 and 2.0 are one."""
    return hashlib.sha256(repr(_ordered(facts)).encode()).hexdigest()[:16]


def _ordered(facts: Any) -> Any:
    if isinstance(facts, dict):
        return sorted((key, _ordered(value)) for key, value in _unhinted(facts).items())
    if isinstance(facts, list | tuple):
        return [_ordered(value) for value in facts]
    return float(facts) if isinstance(facts, int) and not isinstance(facts, bool) else facts


def difference(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """The keys at which two JSON values differ, as 'key: old -> new'."""
    if isinstance(old, dict) and isinstance(new, dict):
        old, new = _unhinted(old), _unhinted(new)
        for key in sorted(old.keys() | new.keys()):
            yield from difference(old.get(key), new.get(key), f"{prefix}{key}.")
    elif old != new:
        yield f"{prefix[:-1]}: {json.dumps(old)} -> {json.dumps(new)}"


def _unhinted(facts: dict[str, Any]) -> dict[str, Any]:
    """Without the module that defined a kind, a hint to the reader on which nothing depends."""
    return {k: v for k, v in facts.items() if k != "module" or "kind" not in facts}


def brief(settings: Any) -> str:
    """Settings in one line, those at their defaults left out."""
    name = getattr(settings, "kind", "") or type(settings).__name__
    changed = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        usual = field.default
        if field.default_factory is not dataclasses.MISSING:
            usual = field.default_factory()
        if value != usual:
            changed.append(f"{field.name} {_brief_value(value)}")
    return f"{name} ({', '.join(changed)})" if changed else name


def _brief_value(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return brief(value)
    if isinstance(value, tuple) and len(value) > 8:
        return f"({value[0]}, {value[1]}, ..., {value[-1]}; {len(value)} in all)"
    return str(value)


def _explain(kind: type, error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = sorted(_keys(kind))
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}."
        return f"unknown key '{key}': {hint}"
    said = error["msg"].removeprefix("Value error, ")
    shown = repr(error["input"])
    got = "" if isinstance(error["input"], dict) or len(shown) > 200 else f", got {shown}"
    return f"{f'key {key!r}: ' if key else ''}{said}{got}."


def _keys(kind: Any, seen: frozenset[Any] = frozenset()) -> set[str]:
    """The field names of a dataclass and of all that may stand in it."""
    if kind in seen:
        return set()
    seen = seen | {kind}
    if isinstance(kind, type) and issubclass(kind, Kind):
        members = {kind, *(k for k in kind.family.kinds.values() if issubclass(k, kind))}
        return {"kind"}.union(*(_fields(member, seen | members) for member in members))
    if dataclasses.is_dataclass(kind):
        return _fields(kind, seen)
    return set().union(*(_keys(part, seen) for part in typing.get_args(kind)))


def _fields(kind: Any, seen: frozenset[Any]) -> set[str]:
    if not dataclasses.is_dataclass(kind):
        return set()
    hints = typing.get_type_hints(kind)
    names = {f.name for f in dataclasses.fields(kind) if f.metadata.get("saved", True)}
    return names.union(*(_keys(hints[name], seen) for name in names))
