"""A machine that interprets pickles: it makes values and names, and nothing happens.

What may be called and made beyond them is handed to it (`unpickle`).
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple, TypeVar

from overtone.errors import OvertoneError

T = TypeVar("T")
Load = Callable[[tuple], Any]
_MARK = object()


class Name(NamedTuple):
    """Something that a pickle refers to by module and name; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """What was an object: the name of its class, and its attributes."""

    kind: str
    state: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    """of EDM's persistent objects, the source code that came with it: text, never executed"""


class RefusedError(OvertoneError):
    """A pickle asks for what is not made here."""


class Allowed(NamedTuple):
    """What a program may do: each raises `RefusedError` for anything else."""

    call: Callable[[Any, tuple], Any]
    make: Callable[[Any, tuple], Any]
    build: Callable[[Any, Any], None]


class Machine:
    """Runs one pickle. `load` answers persistent ids, which refer to storages kept elsewhere;
    `allowed` is what the program may call, make and set."""

    def __init__(self, allowed: Allowed, load: Load | None = None) -> None:
        self.allowed, self.load = allowed, load
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.budget = 0

    def run(self, file: IO[bytes]) -> Any:
        here = file.tell()
        self.budget = 4 * (file.seek(0, io.SEEK_END) - here) + 2**16
        file.seek(here)
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise ValueError("the pickle has no end")

    def step(self, name: str, argument: Any) -> None:
        """One instruction: values and collections here, the rest by the two below."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case _ if name in _LITERALS:
                stack.append(argument)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE" | "EMPTY_SET":
                stack.append({"DICT": dict, "LIST": list, "TUPLE": tuple, "SET": set}[name[6:]]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE" | "LIST" | "FROZENSET":
                items = self.marked()
                stack.append(_COLLECTIONS[name](items))
            case "DICT":
                stack.append(_pairs(self.marked()))
            case "APPEND" | "APPENDS":
                items = self.marked() if name == "APPENDS" else [stack.pop()]
                expect(stack[-1], list).extend(items)
            case "ADDITEMS":
                items = self.marked()
                expect(stack[-1], set).update(map(key, items))
            case "SETITEM" | "SETITEMS":
                items = self.marked() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                target = stack[-1]
                target = target.state if isinstance(target, Record) else expect(target, dict)
                target.update(_pairs(items))
            case _:
                self.arrange(name, argument)

    def arrange(self, name: str, argument: Any) -> None:
        """Instructions about the stack, the memo and names."""
        stack = self.stack
        match name:
            case "POP":
                stack.pop()
            case "POP_MARK":
                self.marked()
            case "DUP":
                stack.append(stack[-1])
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[int(argument)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[int(argument)])
            case "GLOBAL":
                stack.append(Name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(Name(expect(module, str), expect(attribute, str)))
            case _:
                self.act(name)

    def act(self, name: str) -> None:
        """Instructions that call, make or set something."""
        stack = self.stack
        match name:
            case "REDUCE":
                arguments, what = expect(stack.pop(), tuple), stack.pop()
                self.spend(*arguments)
                stack.append(self.allowed.call(what, arguments))
            case "NEWOBJ":
                arguments, what = expect(stack.pop(), tuple), stack.pop()
                stack.append(self.allowed.make(what, arguments))
            case "BUILD":
                state = stack.pop()
                self.spend(state)
                self.allowed.build(stack[-1], state)
            case "BINPERSID":
                if self.load is None:
                    raise RefusedError("a persistent id, which a plain pickle has no use for.")
                stack.append(self.load(expect(stack.pop(), tuple)))
            case _:  # EXT1, INST, OBJ, PERSID, NEWOBJ_EX, READONLY_BUFFER ...
                raise RefusedError(f"the instruction {name} is not one of a checkpoint's.")

    def spend(self, *values: Any) -> None:
        """A value may be used again and again: what is made of it is not free."""
        self.budget -= sum(len(value) for value in values if isinstance(value, _LONG))
        if self.budget < 0:
            raise RefusedError("it would take much more memory than it holds.")

    def marked(self) -> list[Any]:
        """What lies above the last mark, taken off."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items


_LONG = (str, bytes, tuple, list, dict, set, frozenset)
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip


def _frozen(items: list[Any]) -> frozenset[Any]:
    return frozenset(map(key, items))


_COLLECTIONS: Mapping[str, Callable[[list[Any]], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "FROZENSET": _frozen,
}


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(map(key, items[::2]), items[1::2], strict=True))


def key(value: Any) -> Any:
    """A key of a dictionary, or a member of a set. Raises `RefusedError` for a collection: to hash
    one that holds itself twice, and so on, takes for ever, and a deep one more than the stack."""
    if value is None or isinstance(value, str | bytes | int | float):
        return value
    raise RefusedError(f"a {type(value).__name__} as a key is refused: texts and numbers are keys.")


def expect(value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise ValueError(f"{kind.__name__} expected, {type(value).__name__} found")
    return value
