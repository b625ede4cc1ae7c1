"""Options of a command, parsed from its settings dataclass."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from overtone.renamed import check_options

O = TypeVar("O")  # noqa: E741


def parse(
    kind: type[O], command: str, about: str | None, arguments: Sequence[str], **more: Any
) -> O:
    """`kind` filled from the arguments; a mistake in them exits with status 2 and says what."""
    check_options(arguments)
    try:
        return tyro.cli(kind, prog=f"overtone {command}", description=about, args=arguments, **more)
    except ValueError as error:  # from the checks of a settings dataclass
        print(f"overtone {command}: {error}.", file=sys.stderr)
        sys.exit(2)


def has_help(arguments: Sequence[str]) -> bool:
    """Whether help is asked for."""
    return not {"-h", "--help"}.isdisjoint(arguments)
