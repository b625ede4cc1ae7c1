"""Options of a command, parsed from its settings dataclass."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from functools import cache
from inspect import cleandoc
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import tyro

from overtone.errors import OvertoneError, counted
from overtone.place import check_place
from overtone.ranges import check_fields, ranges_of
from overtone.renamed import check_options

O = TypeVar("O")  # noqa: E741

NONE = type(None)
_TELLS = re.compile(r"\bin \[|\d,? to \d|\bbelow \d|\bat most \d|\bat least \d|\bis above \d")
"""what a text looks like that tells its range itself"""
_texts_of: Any = getattr(tyro._docstrings, "parse_docstring_from_object", None)


@cache
def _unbroken(kind: object) -> dict[str, str]:
    """The texts below the fields of a class without the line breaks of the source, some of which
    tyro would keep, and with the ranges of their numbers."""
    ranges = _ranges(kind) if dataclasses.is_dataclass(kind) else {}
    told = {}
    for name, text in _texts_of(kind).items():
        told[name] = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
        if name in ranges and not _TELLS.search(told[name]):
            told[name] += ranges[name]
    return told


def _ranges(kind: Any) -> dict[str, str]:
    """The sentence that tells the range of each field's numbers, where it is worth telling."""
    found: dict[str, set[str]] = {}
    try:
        for name, _, limits in ranges_of(kind):
            found.setdefault(name, set()).add("" if limits is None else limits.words)
    except NameError:  # a kind of somebody's own
        return {}
    several = {field.name for field in dataclasses.fields(kind) if "tuple" in str(field.type)}
    return {
        name: f" {'Each' if name in several else 'It'} is {next(iter(words))}."
        for name, words in found.items()
        if len(words) == 1 and words != {""}
    }


_REGISTRY = tyro.constructors.ConstructorRegistry()


@_REGISTRY.primitive_rule
def _optional(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """An option that may be None takes what its other type takes, or the word None. Help shows the
    other type alone."""
    kinds = get_args(info.type)
    if get_origin(info.type) not in (Union, UnionType) or len(kinds) != 2 or NONE not in kinds:
        return None
    (kind,) = (kind for kind in kinds if kind is not NONE)
    spec = _REGISTRY.get_primitive_spec(
        tyro.constructors.PrimitiveTypeInfo.make(kind, info.markers)
    )
    if not isinstance(spec, tyro.constructors.PrimitiveConstructorSpec):
        return spec  # tyro's error
    wanted = spec.nargs

    def value_of(words: list[str]) -> Any:
        if words == ["None"]:
            return None
        if isinstance(wanted, int) and len(words) != wanted:
            raise ValueError(f"expected {counted(wanted, 'value')}, not {len(words)}")
        return spec.instance_from_str(words)

    return dataclasses.replace(
        spec,
        nargs=wanted if wanted == 1 else "*",
        instance_from_str=value_of,
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: (
            ["None"] if value is None else spec.str_from_instance(value)
        ),
    )


if _texts_of is not None:  # of some versions of tyro; without it help is only less tidy
    tyro._docstrings.parse_docstring_from_object = _unbroken


def parse(
    kind: type[O], command: str, about: str | None, arguments: Sequence[str], **more: Any
) -> O:
    """`kind` filled from the arguments; a mistake in them exits with status 2 and says what."""
    check_options(arguments, command)
    try:
        options = tyro.cli(
            kind,
            prog=f"overtone {command}",
            description=about and cleandoc(about),
            args=arguments,
            registry=_REGISTRY,
            **more,
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
