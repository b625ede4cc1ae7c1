"""Settings are frozen dataclasses; this module is their strict passage to and from JSON.

A key that no field carries, a value of the wrong type and a missing key are each refused with the
place where they stand, so that a misspelt setting never trains a model with the default instead.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterator
from typing import Any, TypeVar

from overtone.errors import OvertoneError

S = TypeVar("S")


def dump(settings: Any) -> dict[str, Any]:
    """A dataclass as a plain JSON dictionary (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def load(kind: type[S], data: Any, where: str) -> S:
    """The dataclass `kind` from a JSON dictionary; `where` names its origin in error messages.

    Raises `OvertoneError` naming the first offending key, and the nearest known one.
    """
    import pydantic

    try:
        return pydantic.TypeAdapter(kind).validate_json(json.dumps(data), strict=True)
    except pydantic.ValidationError as error:
        raise OvertoneError(f"{where}: {_explain(kind, error.errors()[0])}") from None


def fingerprint(facts: Any) -> str:
    """Sixteen hexadecimal digits that change with anything in a JSON value; 2 and 2.0 are one."""
    return hashlib.sha256(repr(_plain(facts)).encode()).hexdigest()[:16]


def _plain(facts: Any) -> Any:
    if isinstance(facts, dict):
        return sorted((key, _plain(value)) for key, value in facts.items())
    if isinstance(facts, list | tuple):
        return [_plain(value) for value in facts]
    return float(facts) if isinstance(facts, int) and not isinstance(facts, bool) else facts


def difference(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """The keys at which two JSON values differ, as 'key: old -> new'."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from difference(old.get(key), new.get(key), f"{prefix}{key}.")
    elif old != new:
        yield f"{prefix[:-1]}: {json.dumps(old)} -> {json.dumps(new)}"


def _explain(kind: type, error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = sorted(_keys(kind))
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}."
        return f"unknown key '{key}': {hint}"
    return f"key '{key}': {error['msg']}, got {error['input']!r}."


def _keys(kind: Any) -> set[str]:
    """The field names of a dataclass and of the dataclasses in it."""
    import typing

    if not dataclasses.is_dataclass(kind):
        return set().union(*(_keys(argument) for argument in typing.get_args(kind)))
    hints = typing.get_type_hints(kind)
    return set(hints).union(*(_keys(hint) for hint in hints.values()))
