"""Settings as foreign files tell them: held against what they can be before they are used.

A number may have hundreds of digits, and a text times a number is a longer text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from overtone.errors import OvertoneError

LARGEST_NUMBER = 2**31
LONGEST_TEXT = 80
LONGEST_LIST = 64


def plain(value: Any) -> Any:
    """A setting as JSON has it; what is none becomes nothing."""
    if isinstance(value, list | tuple) and len(value) <= LONGEST_LIST:
        return [item for item in value if _is_plain(item)]
    return value if _is_plain(value) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT and value.isprintable()
    if isinstance(value, int):
        return abs(value) <= LARGEST_NUMBER
    return isinstance(value, float)


def whole(settings: Mapping[str, Any], name: str, usual: int | None = None) -> int:
    """A setting that is a number of things. Raises `OvertoneError` for anything else."""
    (value,) = _wholes(name, [settings.get(name, usual)])
    return value


def wholes(settings: Mapping[str, Any], name: str, usual: list[int] | None = None) -> list[int]:
    """A setting that is a short list of such."""
    return _wholes(name, settings.get(name, usual))


def _wholes(name: str, values: Any) -> list[int]:
    if not isinstance(values, list | tuple) or len(values) > LONGEST_LIST:
        raise OvertoneError(f"the setting '{name}' is not a short list of whole numbers.")
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise OvertoneError(f"the setting '{name}' is of {type(value).__name__}, not whole.")
        if not 0 <= value <= LARGEST_NUMBER:
            raise OvertoneError(f"the setting '{name}' is far from any network's.")
    return list(values)
