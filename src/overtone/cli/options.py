"""Options of a command, parsed from its settings dataclass."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import tyro

from overtone.errors import OvertoneError
from overtone.place import check_place
from overtone.ranges import check_fields
from overtone.renamed import check_options

O = TypeVar("O")  # noqa: E741

_texts_of: Any = getattr(tyro._docstrings, "parse_docstring_from_object", None)


@cache
def _unbroken(kind: object) -> dict[str, str]:
    """The texts below the fields of a class without the line breaks of the source, some of which
    tyro would keep."""
    return {
        name: "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
        for name, text in _texts_of(kind).items()
    }


if _texts_of is not None:  # of some versions of tyro; without it help is only less tidy
    tyro._docstrings.parse_docstring_from_object = _unbroken


def parse(
    kind: type[O], command: str, about: str | None, arguments: Sequence[str], **more: Any
) -> O:
    """`kind` filled from the arguments; a mistake in them exits with status 2 and says what."""
    check_options(arguments)
    try:
        options = tyro.cli(
            kind, prog=f"overtone {command}", description=about, args=arguments, **more
        )
    except ValueError as error:  # from the checks of a settings dataclass
        print(f"overtone {command}: {error}.", file=sys.stderr)
        sys.exit(2)
    _check(options)
    return options


def _check(options: Any) -> None:
    """Ranges of a command's own options, of which settings have checked theirs; and ~ in paths."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if type(value).__module__.startswith("overtone.cli.") and dataclasses.is_dataclass(value):
            _check(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], Path):
            object.__setattr__(options, field.name, tuple(path.expanduser() for path in value))
        elif isinstance(value, Path):
            value = value.expanduser()
            value = value if value.name else value.absolute()  # of ".", which has no name
            object.__setattr__(options, field.name, value)
            if field.name == "out":
                check_place(value)
    try:
        check_fields(options, lambda name: f"--{name.replace('_', '-')} must be")
    except ValueError as error:
        raise OvertoneError(f"{error}.") from None


def has_help(arguments: Sequence[str]) -> bool:
    """Whether help is asked for."""
    return not {"-h", "--help"}.isdisjoint(arguments)
