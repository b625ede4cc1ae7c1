"""Reading pickles without running them.

A pickle is a program: what it names is imported and called by the loader. Checkpoints of EDM and of
relay diffusion go further and carry Python source that their loader executes. Here the program is
interpreted by a machine that can make tensors, numbers, strings, bytes, lists, tuples, sets, dicts
and `Record`s, and nothing else: names stay names, and calling or making anything that is not in the
tables below is refused, and so is what would take much more memory than the file. Nothing is
imported; `pickletools`, which disassembles pickles without executing them, reads the instructions.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from overtone.convert.pickle_machine import (
    Allowed,
    Machine,
    Name,
    Record,
    RefusedError,
    expect,
    key,
)
from overtone.errors import OvertoneError


def read_checkpoint(path: str | Path) -> Any:
    """The contents of a `.pkl` (a pickle) or of a `.pt` (torch.save, in either of its formats).

    Objects are `Record`s. Raises `RefusedError`, naming what was asked for, for a file that wants
    anything else made or called, and `OvertoneError` for one that is damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                return _read_zip(file)
            file.seek(0)
            return _read_stream(file)
    except RefusedError as error:
        raise RefusedError(f"{path}: {error}") from None
    except OSError as error:
        raise OvertoneError(f"{path} can't be read: {error.strerror or error}.") from None
    # A damaged program fails in any way a program can; none of it is ours to tell apart.
    except (
        ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, EOFError,
        OverflowError, struct.error, zipfile.BadZipFile, zlib.error, MemoryError, RecursionError,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OvertoneError(f"{path} is damaged, or no checkpoint ({reason}).") from None


def state_of(record: Record) -> dict[str, Tensor]:
    """The state dictionary of what was a `torch.nn.Module`: parameters, buffers, sub-modules.

    Raises `OvertoneError` for what no module's state is; a module is in one place only.
    """
    tensors: dict[str, Tensor] = {}
    waiting, seen = [("", record)], {id(record)}
    try:
        while waiting:
            prefix, module = waiting.pop()
            temporary = module.state.get("_non_persistent_buffers_set") or ()
            for kind in ("_parameters", "_buffers"):
                for name, tensor in expect(module.state.get(kind) or {}, dict).items():
                    if isinstance(tensor, Tensor) and name not in temporary:
                        tensors[prefix + name] = tensor
            for name, part in expect(module.state.get("_modules") or {}, dict).items():
                if isinstance(part, Record):
                    if id(part) in seen:
                        raise ValueError("a module in two places")
                    seen.add(id(part))
                    waiting.append((f"{prefix}{expect(name, str)}.", part))
    except (ValueError, TypeError) as error:
        raise OvertoneError(f"a module of this checkpoint is damaged ({error}).") from None
    return tensors


def _call(what: Any, arguments: tuple) -> Any:
    """Calls that are part of how tensors and EDM's objects are written down."""
    name = str(what) if isinstance(what, Name) else f"a {type(what).__name__}"
    if name not in _CALLS:
        raise RefusedError(f"calling {name[:80]} is refused: a checkpoint has no need of it.")
    return _CALLS[name](*arguments)


def _make(what: Any, arguments: tuple) -> Any:
    """Objects: torch's modules and EDM's dictionaries as records, without their constructors."""
    name = str(what) if isinstance(what, Name) else f"a {type(what).__name__}"
    if name == "collections.OrderedDict" and not arguments:
        return {}
    if not name.startswith(_RECORDS) or arguments:
        raise RefusedError(f"making a {name[:80]} is refused: a checkpoint has no need of it.")
    return Record(name)


def _build(target: Any, state: Any) -> None:
    """Attributes of a record; those of dictionaries and the like mean nothing here."""
    if isinstance(target, Record) and target.kind == "numpy.dtype":
        expect(state, tuple)  # its byte order and so on: those of the code, or refused with it
        if state[1] not in ("<", "|"):
            raise RefusedError("numpy's numbers of another byte order are refused.")
    elif isinstance(target, Record):
        target.state.update(expect(state, dict))
    elif not isinstance(target, dict | Tensor) or not isinstance(state, dict):
        raise RefusedError(f"setting the state of a {type(target).__name__} is refused.")


_ALLOWED = Allowed(_call, _make, _build)
_RECORDS = ("torch.nn.modules.", "dnnlib.util.EasyDict")


MOST_DIMENSIONS = 16


class _Storage(NamedTuple):
    """Numbers of one type, as tensors share them."""

    values: Tensor


def _persistent(meta: Any) -> Record:
    """EDM's `_reconstruct_persistent_obj`, but for the import of the source that it carries."""
    facts = meta.state if isinstance(meta, Record) else expect(meta, dict)
    if not isinstance(facts.get("class_name"), str):
        raise ValueError("a persistent object without a class_name")
    state = facts.get("state") or {}
    source = expect(facts.get("module_src") or "", str)
    return Record(facts["class_name"], dict(expect(state, dict)), source)


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    """torch._utils._rebuild_tensor_v2; further arguments say nothing about the numbers."""
    values = expect(storage, _Storage).values
    numbers = (offset, *size, *stride)
    if len(numbers) > 2 * MOST_DIMENSIONS or not all(isinstance(n, int) for n in numbers):
        raise ValueError("a tensor whose size is no few integers")
    # Each by itself first: their product could have a million digits.
    if min(numbers) < 0 or max(numbers) >= 2**63:
        raise ValueError("a tensor of negative size, or of more than memory can be")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= len(values):
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


def _list(items: Any) -> list[Any]:
    return list(items) if isinstance(items, tuple) else expect(items, list)


def _set(items: Any = ()) -> set[Any]:
    return set(map(key, _list(items)))


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    pairs = [_list(pair) for pair in _list(items)]
    return OrderedDict((key(name), value) for name, value in pairs)


def _parameter(data: Any, *_: Any) -> Tensor:
    return expect(data, Tensor)


_CALLS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.storage._load_from_bytes": lambda data: _read_stream(io.BytesIO(expect(data, bytes))),
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


def _dtype(kind: Any) -> torch.dtype:
    name = str(expect(kind, Name))
    if name not in _DTYPES:
        raise RefusedError(f"a storage of kind {name[:80]} is unknown.")
    return _DTYPES[name]


def _values(data: bytes, dtype: torch.dtype, count: int) -> Tensor:
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes for {count} numbers of {dtype}")
    return torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _read_zip(file: IO[bytes]) -> Any:
    """torch.save's present format: a zip with the pickle and one member a storage."""
    with zipfile.ZipFile(file) as archive:
        members = archive.namelist()
        # torch.save compresses nothing; what unfolds to more than the file is not its work.
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise RefusedError("its members are compressed, as torch.save never does.")
        size = file.seek(0, io.SEEK_END)
        if sum(info.file_size for info in archive.infolist()) > size:
            raise RefusedError("its members would be larger than the file itself.")
        (pickle,) = (name for name in members if name.endswith("/data.pkl"))
        folder = pickle.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in members and archive.read(order) != b"little":
            raise RefusedError("it was written on a big-endian machine, which is not read here.")
        loaded: dict[str, _Storage] = {}

        def load(identity: tuple) -> _Storage:
            what, kind, name, _, count = identity
            if what != "storage":
                raise RefusedError("a persistent id that is no storage's is refused.")
            if expect(name, str) not in loaded:
                data = archive.read(f"{folder}data/{name}")
                loaded[name] = _Storage(_values(data, _dtype(kind), count))
            return loaded[name]

        return Machine(_ALLOWED, load).run(io.BytesIO(archive.read(pickle)))


_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save's former format


def _read_stream(file: IO[bytes]) -> Any:
    """A pickle; or torch.save's former format: five pickles, then the storages."""
    first = Machine(_ALLOWED).run(file)
    if not isinstance(first, int) or first != _MAGIC:
        return first
    here = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(here)
    wanted: dict[str, tuple[torch.dtype, int]] = {}
    storages: dict[str, _Storage] = {}
    filled = [0]  # bytes of these

    def load(identity: tuple) -> _Storage | Name:
        if identity[0] == "module":  # a class, and where its source lay
            return expect(identity[1], Name)
        what, kind, name, _, count, *view = identity
        if what != "storage" or (view and view[0] is not None):
            raise RefusedError("a persistent id that is no storage's is refused.")
        if expect(name, str) not in storages:
            wanted[name] = dtype, count = _dtype(kind), expect(count, int)
            filled[0] += count * dtype.itemsize
            if count < 0 or filled[0] > size:
                raise ValueError(f"storages of {filled[0]} bytes in a file of {size}")
            # Filled in place, once all tensors are described.
            storages[name] = _Storage(torch.zeros(count, dtype=dtype))
        return storages[name]

    for _ in range(2):  # the format's version, and facts about the machine
        Machine(_ALLOWED).run(file)
    result = Machine(_ALLOWED, load).run(file)
    for name in expect(Machine(_ALLOWED).run(file), list):
        dtype, count = wanted[name]
        (length,) = struct.unpack("<q", file.read(8))
        if length != count:
            raise ValueError(f"a storage of {length} numbers, not {count}")
        storages[name].values.copy_(_values(file.read(count * dtype.itemsize), dtype, count))
    return result
