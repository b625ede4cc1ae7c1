"""What each instruction of a pickle costs, and how what follows it is read.

Nothing is read before its length was held against the file's, and no number is made of more digits
than a checkpoint has use for: Python takes seconds to read a million of them.
"""

from __future__ import annotations

import codecs
import pickletools
import re
import struct
import sys
from collections.abc import Callable
from typing import IO, Any, NamedTuple

from overtone.errors import OvertoneError


class RefusedError(OvertoneError):
    """A pickle asks for what is not made here."""


MOST_COST = 2**21
"""of all instructions in a file: those of 13,000 tensors that torch saved, or of 3,900 in modules,
as EDM's files have them"""
LONGEST_NUMBER = 255
"""bytes of an integer"""
LONGEST_NAME = 256
LONGEST_LINE = 2**20
LONGEST_PIECE = 2**31
"""bytes of one text or of other bytes"""
DEEPEST = 3
"""files within files: torch writes a tensor into a plain pickle as one"""


class Account:
    """What reading one file, and the files within it, may still cost.

    One unit of cost stands for 64 bytes of memory or for a microsecond. A file's own bytes, and as
    many again in tensors, are free.
    """

    def __init__(self, size: int) -> None:
        self.left = min(8 * size + 2**16, MOST_COST)
        self.longest = min(size, LONGEST_PIECE)
        self.tensors, self.inner, self.depth = size, size, 0
        self._is_large = self.left == MOST_COST

    def spend(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise RefusedError(
                "its program is longer than that of any checkpoint."
                if self._is_large
                else "it would take much more memory than it holds."
            )

    def fill(self, size: int) -> None:
        """Bytes of a storage, of which there are not more than bytes in the file."""
        if not 0 <= size <= self.tensors:
            raise ValueError("storages of more bytes than there are in the file")
        self.tensors -= size

    def enter(self, size: int) -> None:
        """A file within the file. Together they have no more bytes than this one, so that none is
        read many times."""
        self.inner -= size
        self.depth += 1
        if self.inner < 0 or self.depth > DEEPEST:
            raise RefusedError("it would take much more memory than it holds: files within files.")
        self.spend(64)


Read = Callable[[IO[bytes], Account], Any]


class Instruction(NamedTuple):
    name: str
    cost: int
    argument: Read | None


def piece(file: IO[bytes], account: Account, count: int) -> bytes:
    """So many bytes of the file."""
    if not 0 <= count <= account.longest:
        raise ValueError(f"a text or bytes of length {count:,}")
    data = file.read(count)
    if len(data) != count:
        raise ValueError("it ends within a text or bytes")
    return data


def _number(form: str) -> Read:
    layout = struct.Struct(form)
    size, unpack = layout.size, layout.unpack

    def read(file: IO[bytes], _: Account) -> Any:
        return unpack(file.read(size))[0]

    return read


_Make = Callable[[bytes, Account], Any]


def _counted(form: str, make: _Make, most: int = LONGEST_PIECE) -> Read:
    """Bytes whose number comes first."""
    length = _number(form)

    def read(file: IO[bytes], account: Account) -> Any:
        count = length(file, account)
        if count > most:
            raise ValueError(f"a number of {count:,} bytes")
        return make(piece(file, account, count), account)

    return read


def _line(make: _Make, most: int) -> Read:
    """Bytes up to the end of a line."""

    def read(file: IO[bytes], account: Account) -> Any:
        line = file.readline(most)
        if not line.endswith(b"\n"):
            raise ValueError("a line that is cut short, or too long")
        return make(line[:-1], account)

    return read


def _as_is(data: bytes, _: Account) -> bytes:
    return data


# One letter beyond Latin makes all of a text's take two bytes, one of these four: not one.
_TWO, _FOUR = re.compile(rb"[\xc4-\xef]"), re.compile(rb"[\xf0-\xff]")


def _utf8(data: bytes, account: Account) -> str:
    if not data.isascii():
        width = 4 if _FOUR.search(data) else 2 if _TWO.search(data) else 1
        account.spend(1 + (len(data) * (width - 1) >> 6))
    return data.decode("utf-8", "surrogatepass")


def _latin(data: bytes, _: Account) -> str:
    return data.decode("latin-1")


def _escaped(data: bytes, account: Account) -> str:
    text = data.decode("raw-unicode-escape")
    account.spend(max(0, sys.getsizeof(text) - len(data)) >> 6)
    return text


# What Python 2 wrote; `codecs` warns of anything else.
_ESCAPES = re.compile(rb"""(?:[^\\]|\\[\\'"nrt]|\\x[0-9a-fA-F]{2})*+""", re.DOTALL)


def _quoted(data: bytes, account: Account) -> str:
    whole = len(data) > 1 and data[:1] == data[-1:] and data[:1] in (b"'", b'"')
    if not whole or not _ESCAPES.fullmatch(data[1:-1]):
        raise ValueError("a text without its quotes")
    return _latin(codecs.escape_decode(data[1:-1])[0], account)


def _integer(data: bytes, _: Account) -> int:
    return int.from_bytes(data, "little", signed=True)


def _decimal(data: bytes, _: Account) -> int | bool:
    if data in (b"00", b"01"):
        return data == b"01"
    return int(data.removesuffix(b"L"))


def _slot(data: bytes, _: Account) -> int:
    number = int(data)
    if number < 0:
        raise ValueError("a place in the memory below 0")
    return number


_word = _line(lambda data, _: data.decode("utf-8"), LONGEST_NAME)


def _name(file: IO[bytes], account: Account) -> tuple[str, str]:
    """A module, and something in it."""
    return _word(file, account), _word(file, account)


_DIGITS = 3 * LONGEST_NUMBER
_ARGUMENTS: dict[str, Read] = {
    "BININT": _number("<i"),
    "BININT1": _number("<B"),
    "BININT2": _number("<H"),
    "BINFLOAT": _number(">d"),
    "LONG1": _counted("<B", _integer),
    "LONG4": _counted("<i", _integer, LONGEST_NUMBER),
    "INT": _line(_decimal, _DIGITS),
    "LONG": _line(_decimal, _DIGITS),
    "FLOAT": _line(lambda data, _: float(data), _DIGITS),
    "STRING": _line(_quoted, LONGEST_LINE),
    "UNICODE": _line(_escaped, LONGEST_LINE),
    "SHORT_BINSTRING": _counted("<B", _latin),
    "BINSTRING": _counted("<i", _latin),
    "SHORT_BINUNICODE": _counted("<B", _utf8),
    "BINUNICODE": _counted("<I", _utf8),
    "BINUNICODE8": _counted("<Q", _utf8),
    "SHORT_BINBYTES": _counted("<B", _as_is),
    "BINBYTES": _counted("<I", _as_is),
    "BINBYTES8": _counted("<Q", _as_is),
    "BYTEARRAY8": _counted("<Q", lambda data, _: bytearray(data)),
}
LITERALS = tuple(_ARGUMENTS)
"""instructions that are a value"""
_ARGUMENTS |= {
    "PROTO": _number("<B"),
    "FRAME": _number("<Q"),
    "GLOBAL": _name,
    "GET": _line(_slot, _DIGITS),
    "PUT": _line(_slot, _DIGITS),
    "BINGET": _number("<B"),
    "BINPUT": _number("<B"),
    "LONG_BINGET": _number("<I"),
    "LONG_BINPUT": _number("<I"),
}
_COSTS = dict.fromkeys(LITERALS, 2) | {
    "BININT": 1, "BININT1": 1, "BININT2": 1, "BINFLOAT": 1, "STRING": 3, "UNICODE": 4,
    "BYTEARRAY8": 3, "MARK": 3, "MEMOIZE": 2, "PUT": 3, "BINPUT": 2, "LONG_BINPUT": 2, "GET": 2,
    "APPEND": 2, "TUPLE1": 2, "TUPLE2": 2, "TUPLE3": 2, "LIST": 2, "DICT": 4, "FROZENSET": 5,
    "EMPTY_LIST": 3, "EMPTY_DICT": 3, "EMPTY_SET": 5, "SETITEM": 4, "SETITEMS": 4, "GLOBAL": 6,
    "STACK_GLOBAL": 4, "REDUCE": 8, "NEWOBJ": 8, "BUILD": 8, "BINPERSID": 8,
}  # fmt: skip

INSTRUCTIONS = {
    opcode.code.encode("latin-1"): Instruction(
        opcode.name, _COSTS.get(opcode.name, 1), _ARGUMENTS.get(opcode.name)
    )
    for opcode in pickletools.opcodes
}
"""by their byte"""
