"""A machine that interprets pickles: it makes values and names, and nothing happens.

What may be called and made beyond them is handed to it (`unpickle`).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple, Protocol, TypeVar

from overtone.convert.instructions import (
    INSTRUCTIONS,
    LITERALS,
    LONGEST_NAME,
    Account,
    RefusedError,
)

T = TypeVar("T")
Load = Callable[[tuple], Any]


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
    """The source code that came with one of EDM's persistent objects. It is text and is never
    executed."""


class Allowed(Protocol):
    """What a program may do: each raises `RefusedError` for anything else."""

    def call(self, what: Any, arguments: tuple) -> Any: ...

    def make(self, what: Any, arguments: tuple) -> Any: ...

    def build(self, target: Any, state: Any) -> None: ...


class Machine:
    """Runs one pickle. `load` answers persistent ids, which refer to storages kept elsewhere;
    `allowed` is what the program may call, make and set; `account`, what it may cost."""

    def __init__(self, allowed: Allowed, account: Account, load: Load | None = None) -> None:
        self.allowed, self.account, self.load = allowed, account, load
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """what lay on the stack before each mark"""
        self.memo: dict[int, Any] = {}

    def run(self, file: IO[bytes]) -> Any:
        read, account = file.read, self.account
        while (code := read(1)) != pickle.STOP:
            known = _KNOWN.get(code)
            if known is None:
                raise self.refused(code)
            cost, argument, step = known
            account.left -= cost
            if account.left < 0:
                account.spend(0)
            step(self, argument(file, account) if argument is not None else None)
        return self.stack.pop()

    def refused(self, code: bytes) -> Exception:
        """The error for EXT1, INST, OBJ, PERSID, NEWOBJ_EX, READONLY_BUFFER, or no instruction."""
        if code in INSTRUCTIONS:
            name = INSTRUCTIONS[code].name
            return RefusedError(f"the instruction {name} is not one of a checkpoint's.")
        return ValueError(f"no instruction is {code!r}" if code else "it has no end")

    def spend_on(self, *values: Any) -> None:
        """A value may be used again and again: what is made of it is not free."""
        for value in values:
            if isinstance(value, str):
                self.account.spend(len(value) >> 6)
            elif isinstance(value, tuple | list):
                self.account.spend(len(value) >> 3)
            elif isinstance(value, dict | set | frozenset):
                self.account.spend(2 * len(value))

    def marked(self) -> list[Any]:
        """What lies above the last mark, taken off with it."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def pairs(self, items: list[Any]) -> dict[Any, Any]:
        """A dictionary of keys and values in turn."""
        self.account.spend(len(items))
        return dict(zip(map(key, items[::2]), items[1::2], strict=True))

    def members(self, items: list[Any]) -> list[Any]:
        self.account.spend(2 * len(items))
        return list(map(key, items))


# The instructions. Each is a function of the machine and of what follows the instruction.


def _push(machine: Machine, value: Any) -> None:
    machine.stack.append(value)


def _pushing(value: Any) -> Step:
    return lambda machine, _: machine.stack.append(value)


def _making(make: Callable[[], Any]) -> Step:
    return lambda machine, _: machine.stack.append(make())


def _nothing(machine: Machine, _: Any) -> None:
    pass


def _protocol(machine: Machine, version: int) -> None:
    if version > pickle.HIGHEST_PROTOCOL:
        raise ValueError(f"a pickle of protocol {version}")


def _mark(machine: Machine, _: Any) -> None:
    machine.below.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine, _: Any) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.marked()


def _pop_mark(machine: Machine, _: Any) -> None:
    machine.marked()


def _dup(machine: Machine, _: Any) -> None:
    machine.stack.append(machine.stack[-1])


def _tuple_of(count: int) -> Step:
    def step(machine: Machine, _: Any) -> None:
        items = machine.stack[-count:]
        if len(items) < count:
            raise ValueError("a tuple of more than there is")
        machine.stack[-count:] = [tuple(items)]

    return step


def _tuple(machine: Machine, _: Any) -> None:
    items = tuple(machine.marked())
    machine.stack.append(items)


def _list(machine: Machine, _: Any) -> None:
    items = machine.marked()
    machine.stack.append(items)


def _dict(machine: Machine, _: Any) -> None:
    made = machine.pairs(machine.marked())
    machine.stack.append(made)


def _frozenset(machine: Machine, _: Any) -> None:
    made = frozenset(machine.members(machine.marked()))
    machine.stack.append(made)


def _append(machine: Machine, _: Any) -> None:
    item = machine.stack.pop()
    expect(machine.stack[-1], list).append(item)


def _appends(machine: Machine, _: Any) -> None:
    items = machine.marked()
    expect(machine.stack[-1], list).extend(items)


def _additems(machine: Machine, _: Any) -> None:
    items = machine.members(machine.marked())
    expect(machine.stack[-1], set).update(items)


def _set_in(machine: Machine, pairs: dict[Any, Any]) -> None:
    target = machine.stack[-1]
    target = target.state if isinstance(target, Record) else expect(target, dict)
    target.update(pairs)


def _setitem(machine: Machine, _: Any) -> None:
    value, name = machine.stack.pop(), machine.stack.pop()
    _set_in(machine, machine.pairs([name, value]))


def _setitems(machine: Machine, _: Any) -> None:
    _set_in(machine, machine.pairs(machine.marked()))


def _memoize(machine: Machine, _: Any) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _put(machine: Machine, place: int) -> None:
    machine.memo[place] = machine.stack[-1]


def _get(machine: Machine, place: int) -> None:
    machine.stack.append(machine.memo[place])


def _global(machine: Machine, name: tuple[str, str]) -> None:
    machine.stack.append(Name(*name))


def _stack_global(machine: Machine, _: Any) -> None:
    name, module = expect(machine.stack.pop(), str), expect(machine.stack.pop(), str)
    if max(len(module), len(name)) > LONGEST_NAME:
        raise ValueError("a name that is too long")
    machine.stack.append(Name(module, name))


def _reduce(machine: Machine, _: Any) -> None:
    arguments, what = expect(machine.stack.pop(), tuple), machine.stack.pop()
    machine.spend_on(*arguments)
    made = machine.allowed.call(what, arguments)
    machine.spend_on(made)
    machine.stack.append(made)


def _newobj(machine: Machine, _: Any) -> None:
    arguments, what = expect(machine.stack.pop(), tuple), machine.stack.pop()
    machine.stack.append(machine.allowed.make(what, arguments))


def _build(machine: Machine, _: Any) -> None:
    state = machine.stack.pop()
    machine.spend_on(state)
    machine.allowed.build(machine.stack[-1], state)


def _persistent(machine: Machine, _: Any) -> None:
    if machine.load is None:
        raise RefusedError("a persistent id, which a plain pickle has no use for.")
    machine.stack.append(machine.load(expect(machine.stack.pop(), tuple)))


Step = Callable[[Machine, Any], None]
_STEPS: dict[str, Step] = {
    **dict.fromkeys(LITERALS, _push),
    "PROTO": _protocol,
    "FRAME": _nothing,  # the length of what follows, which nothing here depends on
    "NONE": _pushing(None),
    "NEWTRUE": _pushing(True),
    "NEWFALSE": _pushing(False),
    "EMPTY_TUPLE": _pushing(()),
    "EMPTY_LIST": _making(list),
    "EMPTY_DICT": _making(dict),
    "EMPTY_SET": _making(set),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": _tuple,
    "LIST": _list,
    "DICT": _dict,
    "FROZENSET": _frozenset,
    "APPEND": _append,
    "APPENDS": _appends,
    "ADDITEMS": _additems,
    "SETITEM": _setitem,
    "SETITEMS": _setitems,
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": _dup,
    "MEMOIZE": _memoize,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _newobj,
    "BUILD": _build,
    "BINPERSID": _persistent,
}
_KNOWN = {
    code: (cost, argument, _STEPS[name])
    for code, (name, cost, argument) in INSTRUCTIONS.items()
    if name in _STEPS
}

_LARGEST_KEY = 2**64


def key(value: Any) -> Any:
    """A key of a dictionary, or a member of a set. Raises `RefusedError` for a collection: to hash
    one that holds itself twice, and so on, takes for ever, and a deep one more than the stack; and
    for a number of more than 64 bits: among those as many as one likes have the same hash."""
    if isinstance(value, int) and abs(value) >= _LARGEST_KEY:
        raise RefusedError("a number of more than 64 bits as a key is refused.")
    if value is None or isinstance(value, str | bytes | int | float):
        return value
    raise RefusedError(f"a {type(value).__name__} as a key is refused: texts and numbers are keys.")


def attributes(value: Any) -> dict[Any, Any]:
    """A dictionary; none is an empty one. (Tensors, say, are neither true nor false.)"""
    return {} if value is None else expect(value, dict)


def expect(value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise ValueError(f"{kind.__name__} expected, {type(value).__name__} found")
    return value
