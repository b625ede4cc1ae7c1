"""Registries: how the parts of a model are found by name, ours and anyone's.

A *family* is a noun (networks, schedules, samplers, ...), a *kind* one of its members: a frozen
dataclass of settings that says of itself what it is and what it builds. A kind registers in the
file that defines it,

    @dataclass(frozen=True)
    class MyNetConfig(NetworkConfig, kind="MyNet"):
        resolution: int = 32
        ...

and from then on takes every way that a built-in kind takes: to and from JSON, through the command
line, into recipes, pipelines and saved directories. Built-in kinds are listed in their folder's
`KINDS` and imported when they are named. A kind that nothing has registered is refused: no module
is ever imported because a model's file says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextvars import ContextVar
from dataclasses import fields
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from overtone.errors import OvertoneError, unknown
from overtone.ranges import check_fields

ENTRY_POINTS = "overtone.kinds"
"""the group of entry points by which an installed package offers kinds"""

FAMILIES: dict[str, Family] = {}
IMPORTED: list[str] = []
"""the modules and files that were imported for their kinds, as they were named"""


class Family:
    """The kinds of one noun.

    `home` is the package whose `KINDS[name]` maps the built-in kinds to its modules.
    """

    def __init__(self, name: str, home: str) -> None:
        self.name, self.home = name, home
        self.kinds: dict[str, type[Kind]] = {}
        FAMILIES[name] = self

    @property
    def built_in(self) -> dict[str, str]:
        """The module of each built-in kind."""
        if not self.home:
            return {}
        table: dict[str, str] = importlib.import_module(self.home).KINDS.get(self.name, {})
        return {kind: f"{self.home}.{module}" for kind, module in table.items()}

    def register(self, kind: type[Kind]) -> None:
        """Add a kind. Raises `OvertoneError` if another one has its name."""
        name, there = kind.kind, self.kinds.get(kind.kind)
        place = (kind.__module__, kind.__qualname__)
        reserved = self.built_in.get(name, kind.__module__) if not _is_ours(kind) else None
        if reserved not in (None, kind.__module__):
            raise OvertoneError(
                f"{kind.__module__} registers the {self.name} '{name}', which is the name of one of"
                " Overtone's own: give it another."
            )
        # A module that is read again, by importlib.reload say, replaces what it had registered.
        if there is not None and (there.__module__, there.__qualname__) != place:
            raise OvertoneError(
                f"two kinds of {self.name} are called '{name}', in {there.__module__} and in"
                f" {kind.__module__}: rename one of them."
            )
        self.kinds[name] = kind

    def find(self, name: str, module: str = "") -> type[Kind]:
        """The kind of that name; `module` is where it was defined when it was saved.

        Raises `OvertoneError` for a name that is not registered, saying what has to be imported.
        """
        if name not in self.kinds:
            if name in self.built_in:
                importlib.import_module(self.built_in[name])
            else:
                self._from_entry_point(name)
        if name in self.kinds:
            return self.kinds[name]
        others = [f.name for f in FAMILIES.values() if name in {**f.kinds, **f.built_in}]
        if others:
            raise OvertoneError(f"'{name}' is a kind of {others[0]}, not of {self.name}.")
        if module:
            raise OvertoneError(
                f"no {self.name} of the kind '{name}' is registered: it was saved by the module"
                f" '{module}'. If you trust that module, import it first (--import MODULE, or"
                " --import FILE.py)."
            )
        raise unknown(self.name, name, {**self.kinds, **self.built_in})

    def _from_entry_point(self, name: str) -> None:
        for point in entry_points(group=ENTRY_POINTS, name=name):
            source = point.dist.name if point.dist is not None else point.value
            print(f"the {self.name} '{name}' comes from the package {source}", file=sys.stderr)
            try:
                point.load()
            except Exception as error:  # whatever a foreign module raises
                raise OvertoneError(
                    f"the package {source} offers '{name}' but fails to import: {said(error)}."
                ) from error


_RAW: ContextVar[type | None] = ContextVar("raw", default=None)


class Kind:
    """Base of all settings that are found by name.

    `class Schedule(Kind, family="schedule", home=...)` begins a family; a subclass with `kind=` is
    a member. Members are frozen dataclasses. A field with the metadata {"saved": False} holds what
    no JSON can, and is left out of it.
    """

    kind: ClassVar[str] = ""
    """The name in files."""
    family: ClassVar[Family]

    def __init_subclass__(
        cls, *, family: str = "", home: str = "", kind: str = "", **others: Any
    ) -> None:
        super().__init_subclass__(**others)
        cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
        if family:
            cls.family = Family(family, home)
        if kind:
            cls.kind = kind
            cls.family.register(cls)

    def __post_init__(self) -> None:
        """Raises `ValueError` for a field of another type or outside its range. A kind that checks
        more calls this first."""
        check_fields(self)

    @property
    def origin(self) -> str:
        """The module of a kind that is not Overtone's own, which is saved beside its name."""
        return "" if _is_ours(type(self)) else type(self).__module__

    @classmethod
    def load(cls, data: Any) -> Kind:
        """A member from a JSON dictionary that names its `kind`, or, of a member, may leave it out.

        Raises `ValueError` for what is no such dictionary, `OvertoneError` for a kind that is not
        registered, and pydantic's `ValidationError` for wrong keys and values.
        """
        import json

        rest = dict(data) if isinstance(data, dict) else {}
        name, module = rest.pop("kind", cls.kind), str(rest.pop("module", ""))
        if not isinstance(data, dict) or not isinstance(name, str) or not name:
            raise ValueError(f"a {cls.family.name} is a JSON object that names its 'kind'")
        found = cls.family.find(name, module)
        if not issubclass(found, cls):
            raise ValueError(
                f"a {cls.family.name} of the kind '{cls.kind}' is wanted, not '{name}'"
            )
        check_kind(found)
        own: Any = found
        unsaved = [f.name for f in fields(own) if not f.metadata.get("saved", True)]
        if wrong := [name for name in unsaved if name in rest]:
            raise ValueError(f"'{wrong[0]}' is nothing that a file can say")
        return _adapter(own).validate_json(json.dumps(rest), strict=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        if _RAW.get() is cls:
            return handler(source)
        return core_schema.no_info_plain_validator_function(cls.load)


def check_registered(value: Kind) -> None:
    """Raises `OvertoneError` for settings that could not be loaded again."""
    kind = type(value)
    if kind.family.kinds.get(kind.kind) is not kind:
        name = kind.__name__
        raise OvertoneError(
            f"a {name} could not be loaded again, as no {kind.family.name} of that class is"
            f' registered: define it as class {name}(..., kind="{name}").'
        )
    check_kind(kind)


def check_kind(kind: type[Kind]) -> None:
    """Raises `OvertoneError` for a kind whose own fields are not a frozen dataclass's: they would
    be lost where it is saved."""
    settings, name = (
        vars(kind).get("__dataclass_params__"),
        f"{kind.__module__}.{kind.__qualname__}",
    )
    if settings is None or not settings.frozen:
        raise OvertoneError(
            f"{name} is not a frozen dataclass, so its settings would be lost: decorate the class"
            " with @dataclass(frozen=True)."
        )
    if missing := getattr(kind, "__abstractmethods__", ()):
        raise OvertoneError(f"{name} does not define {', '.join(sorted(missing))}.")


def resolve(place: str, whose: Kind, attribute: str) -> Any:
    """What a kind names as PACKAGE.MODULE:NAME, imported. Raises `OvertoneError` where there is no
    such thing, or its module fails."""
    import pkgutil

    try:
        return pkgutil.resolve_name(place)
    except Exception as error:  # whatever a foreign module raises
        raise OvertoneError(
            f"the {whose.family.name} '{whose.kind}' names '{place}' in `{attribute}`, which can't"
            f" be imported ({said(error)}): it is like 'PACKAGE.MODULE:NAME'."
        ) from error


def import_module(name: str) -> Any:
    """Import a module by its name, or a file that ends in .py, so that its kinds are registered.

    The code in it is executed. Returns the module. Raises `OvertoneError` if it does not exist or
    fails.
    """
    if name not in IMPORTED:
        IMPORTED.append(name)
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise OvertoneError(f"{name} does not exist: no file to import is there.")
        there = sys.modules.get(path.stem)
        if there is not None:
            if getattr(there, "__file__", None) == str(path):
                return there
            raise OvertoneError(f"a module called '{path.stem}' is there already: rename {name}.")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        # Under its own name, by which other processes and pickles look for what it defines.
        sys.modules[path.stem] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[path.stem]
            raise
        return module
    except OvertoneError:
        raise
    except (Exception, SystemExit) as error:  # whatever a foreign module raises
        raise OvertoneError(f"{name} fails to import: {said(error)}.") from error


@cache
def _adapter(kind: Any) -> Any:
    """pydantic's reader of one kind's own fields."""
    import pydantic

    token = _RAW.set(kind)
    try:
        get_type_hints(kind)  # of a name that is not there pydantic would never come to an end
        return pydantic.TypeAdapter(kind)
    except NameError as error:
        raise OvertoneError(
            f"the type of a field of {_full_name(kind)} is not known where the"
            f" module runs ({error}): import it outside of `if TYPE_CHECKING`."
        ) from None
    except pydantic.errors.PydanticUserError as error:
        raise OvertoneError(
            f"a field of {_full_name(kind)} has a type that no JSON can hold:"
            f" {str(error).partition('. ')[0]}."
        ) from None
    finally:
        _RAW.reset(token)


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "overtone"


def said(error: BaseException) -> str:
    """An error of somebody's code in one line."""
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0]}" if first else type(error).__name__
