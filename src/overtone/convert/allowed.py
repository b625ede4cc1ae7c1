"""What the program of a checkpoint may call, make and set: tensors, numbers, collections, records.

Names that are not in the tables below are refused; those that are, mean what stands there, and
nothing is imported.
"""

from __future__ import annotations

import math
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from overtone.convert.instructions import Account, RefusedError
from overtone.convert.pickle_machine import Name, Record, attributes, expect, key

MOST_DIMENSIONS = 16
_RECORDS = ("torch.nn.modules.", "dnnlib.util.EasyDict", "argparse.Namespace")
_LONGEST_CLASS = 80


class Storage(NamedTuple):
    """Numbers of one type, as tensors share them."""

    values: Tensor


class CheckpointValues:
    """What the machine is allowed. `read_inner` reads a file within the file, as which torch writes
    a tensor into a plain pickle."""

    def __init__(self, account: Account, read_inner: Callable[[bytes], Any]) -> None:
        self.account, self.read_inner = account, read_inner

    def call(self, what: Any, arguments: tuple) -> Any:
        """Calls that are part of how tensors and EDM's objects are written down."""
        name = _named(what)
        if name == "torch.storage._load_from_bytes":
            (data,) = arguments
            return self.read_inner(expect(data, bytes))
        if name not in _CALLS:
            raise RefusedError(f"calling {name[:80]} is refused: a checkpoint has no need of it.")
        if name.startswith("torch._utils."):
            self.account.spend(16)
        return _CALLS[name](*arguments)

    def make(self, what: Any, arguments: tuple) -> Any:
        """Objects: torch's modules and EDM's dictionaries, as records; no constructor is called."""
        name = _named(what)
        if name == "collections.OrderedDict" and not arguments:
            return {}
        if not name.startswith(_RECORDS) or arguments:
            raise RefusedError(f"making a {name[:80]} is refused: a checkpoint has no need of it.")
        return Record(name)

    def build(self, target: Any, state: Any) -> None:
        """Attributes of a record; those of dictionaries and the like mean nothing here."""
        if isinstance(target, Record) and target.kind == "numpy.dtype":
            expect(state, tuple)  # its byte order and so on: those of the code, or refused with it
            if state[1] not in ("<", "|"):
                raise RefusedError("numpy's numbers of another byte order are refused.")
        elif isinstance(target, Record):
            target.state.update(expect(state, dict))
        elif not isinstance(target, dict | Tensor) or not isinstance(state, dict):
            raise RefusedError(f"setting the state of a {type(target).__name__} is refused.")


def _named(what: Any) -> str:
    return str(what) if isinstance(what, Name) else f"a {type(what).__name__}"


def _persistent(meta: Any) -> Record:
    """EDM's `_reconstruct_persistent_obj`, but for the import of the source that it carries."""
    facts = meta.state if isinstance(meta, Record) else expect(meta, dict)
    name = facts.get("class_name")
    if not isinstance(name, str) or not name.isidentifier() or len(name) > _LONGEST_CLASS:
        raise ValueError("a persistent object without a class_name")
    # The dictionary itself: copies of one that many records name would take any memory.
    return Record(name, attributes(facts.get("state")), expect(facts.get("module_src", ""), str))


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    """torch._utils._rebuild_tensor_v2; further arguments say nothing about the numbers."""
    values = expect(storage, Storage).values
    if len(_list(size)) != len(_list(stride)) or len(size) > MOST_DIMENSIONS:
        raise ValueError("a tensor of many dimensions, or whose strides are not as many")
    numbers = (offset, *size, *stride)
    if not all(isinstance(n, int) for n in numbers):
        raise ValueError("a tensor whose size is not a few integers")
    # Each by itself first: their product could have a million digits.
    if min(numbers) < 0 or max(numbers) >= 2**63:
        raise ValueError("a tensor of negative size, or of more than memory can be")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if offset > len(values) or (0 not in size and last >= len(values)):
        raise ValueError("a tensor that reaches beyond its storage")
    if math.prod(size) > len(values):
        raise ValueError("a tensor with more elements than its storage")
    return torch.as_strided(values, size, stride, offset)


def _latin(text: Any, encoding: Any) -> bytes:
    """How protocol 2, which has no bytes, writes them."""
    if encoding != "latin1":
        raise RefusedError("bytes in another encoding than latin1, which pickles use, are refused.")
    return expect(text, str).encode("latin1")


def _scalar(kind: Any, data: Any) -> float | int | bool:
    """A number of numpy's, as EDM's objects hold them."""
    code = expect(expect(kind, Record).state.get("code"), str)
    formats = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i", "b1": "<?"}
    if code not in formats:
        raise RefusedError(f"a number of numpy's type {code[:10]} is refused.")
    (number,) = struct.unpack(formats[code], expect(data, bytes))
    return number


def _size(*sizes: Any) -> tuple:
    (size,) = sizes
    return tuple(expect(n, int) for n in _list(size))


def _list(items: Any) -> list[Any] | tuple[Any, ...]:
    return items if isinstance(items, tuple) else expect(items, list)


def _set(items: Any = ()) -> set[Any]:
    return set(map(key, _list(items)))


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    made: OrderedDict[Any, Any] = OrderedDict()
    for name, value in map(_list, _list(items)):
        made[key(name)] = value
    return made


def _parameter(data: Any, *_: Any) -> Tensor:
    return expect(data, Tensor)


_CALLS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "torch.device": lambda kind, *_: expect(kind, str),
    "collections.OrderedDict": _ordered,
    "numpy.dtype": lambda code, *_: Record("numpy.dtype", {"code": expect(code, str)}),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "_codecs.encode": _latin,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
}

_DTYPES = {
    f"torch.{kind}Storage": dtype
    for kind, dtype in {
        "Float": torch.float32, "Double": torch.float64, "Half": torch.float16,
        "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32,
        "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
    }.items()
}  # fmt: skip


def dtype_of(kind: Any) -> torch.dtype:
    """The type of a storage by the name of its class."""
    name = str(expect(kind, Name))
    if name not in _DTYPES:
        raise RefusedError(f"a storage of kind {name[:80]} is unknown.")
    return _DTYPES[name]
