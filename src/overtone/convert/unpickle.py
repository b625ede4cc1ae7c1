"""Reading pickles without running them.

A pickle is a program: what it names is imported and called by the loader. Checkpoints of EDM and of
relay diffusion go further and carry Python source that their loader executes. Here the program is
interpreted by a machine that can make tensors, numbers, strings, bytes, lists, tuples, sets, dicts
and `Record`s, and nothing else: names stay names, and calling or making anything that is not in the
tables of `allowed` is refused, and so is what would take much more memory than the file, or long.
"""

from __future__ import annotations

import io
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from overtone.convert.allowed import CheckpointValues, Storage, dtype_of
from overtone.convert.instructions import Account, RefusedError
from overtone.convert.pickle_machine import Load, Machine, Name, Record, attributes, expect
from overtone.errors import OvertoneError
from overtone.filekind import PICKLES, kind_of
from overtone.regular import open_regular

LARGEST_DIRECTORY = 2**22
"""bytes of a zip's directory: of 50,000 storages"""
LARGEST_PROGRAM = 2**26
"""bytes of the pickle in a zip, which has the numbers of tensors beside it"""
MOST_TENSORS = 2**14
"""of a network"""
LONGEST_PLACE = 1000
"""letters of a tensor's name in a module of modules"""


def read_checkpoint(path: str | Path) -> Any:
    """The contents of a `.pkl` (a pickle) or of a `.pt` (torch.save, in either of its formats).

    Objects are `Record`s. Raises `RefusedError`, naming what was asked for, for a file that wants
    anything else made or called, and `OvertoneError` for one that is damaged.
    """
    path = Path(path).expanduser()
    kind = kind_of(path)
    if kind and kind not in PICKLES:
        raise OvertoneError(f"{path} holds no checkpoint that torch saved: it is {kind}.")
    try:
        with open_regular(path) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            if file.peek(2).startswith(b"PK"):
                return _read_zip(_Careful(file.raw), Account(size))
            return _read_stream(file, Account(size))
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
            temporary = module.state.get("_non_persistent_buffers_set", set())
            for kind in ("_parameters", "_buffers"):
                for name, tensor in attributes(module.state.get(kind)).items():
                    if isinstance(tensor, Tensor) and name not in expect(temporary, set):
                        tensors[_place(prefix, name)] = tensor
                # Modules may name one dictionary, so that there are more tensors than were made.
                if len(tensors) > MOST_TENSORS:
                    raise ValueError("more tensors than any network has")
            for name, part in attributes(module.state.get("_modules")).items():
                if isinstance(part, Record):
                    if id(part) in seen:
                        raise ValueError("a module in two places")
                    seen.add(id(part))
                    waiting.append((f"{_place(prefix, name)}.", part))
    except (ValueError, TypeError) as error:
        raise OvertoneError(f"a module of this checkpoint is damaged ({error}).") from None
    return tensors


def _place(prefix: str, name: Any) -> str:
    """The name of what is in a module. Names may be as long as one likes, and stand in many."""
    if len(prefix) + len(expect(name, str)) > LONGEST_PLACE:
        raise ValueError("modules within modules without end, or names without")
    return prefix + name


def check_owned(state: dict[str, Tensor], where: str) -> None:
    """Raises `OvertoneError` for tensors that share their numbers: a network of them would be much
    larger than its file. And for more of them than any network has."""
    if len(state) > MOST_TENSORS:
        raise OvertoneError(f"{where}: {len(state):,} tensors are more than any network has.")
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state.values()
    }
    if sum(t.numel() * t.itemsize for t in state.values()) > 2 * sum(storages.values()) + 2**16:
        raise OvertoneError(f"{where}: its tensors share their numbers, as no network's do.")


class _Careful(io.BufferedReader):
    """A file that is read in pieces of at most `most` bytes."""

    most = LARGEST_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise RefusedError("it has more members than any checkpoint.")
        return super().read(size)


def _read_zip(file: _Careful, account: Account) -> Any:
    """torch.save's present format: a zip with the pickle and one member a storage."""
    with file, zipfile.ZipFile(file) as archive:
        file.most = sys.maxsize  # the directory is read, whose length nobody has checked
        program = _checked(archive, account.tensors)
        folder = program.filename.removesuffix("data.pkl")
        loaded: dict[str, tuple[torch.dtype, int, Storage]] = {}

        def load(identity: tuple) -> Storage:
            what, kind, name, _, count = identity
            if what != "storage":
                raise RefusedError("a persistent id that is not a storage's is refused.")
            dtype = dtype_of(kind)
            if expect(name, str) not in loaded:
                account.spend(48)
                with archive.open(f"{folder}data/{name}") as member:
                    size = archive.getinfo(f"{folder}data/{name}").file_size
                    if expect(count, int) * dtype.itemsize != size:
                        raise ValueError(f"{size} bytes for {count} numbers of {dtype}")
                    account.fill(size)
                    values = torch.empty(count, dtype=dtype)
                    _fill(values, member)
                loaded[name] = dtype, count, Storage(values)
            if loaded[name][:2] != (dtype, expect(count, int)):
                raise ValueError("a storage that is said to be of two types or sizes")
            return loaded[name][2]

        return _machine(account, load).run(io.BytesIO(archive.read(program)))


def _checked(archive: zipfile.ZipFile, size: int) -> zipfile.ZipInfo:
    """The member with the pickle, of a zip such as torch.save writes."""
    members = archive.infolist()
    # torch.save compresses nothing; what unfolds to more than the file is not its work.
    if any(info.compress_type != zipfile.ZIP_STORED for info in members):
        raise RefusedError("its members are compressed, as torch.save never does.")
    if sum(max(info.file_size, info.compress_size) for info in members) > size:
        raise RefusedError("its members would be larger than the file itself.")
    if len(archive.NameToInfo) != len(members):
        raise RefusedError("it has two members of one name.")
    programs = [info for info in members if info.filename.endswith("/data.pkl")]
    if len(programs) != 1 or programs[0].file_size > LARGEST_PROGRAM:
        raise ValueError(f"{len(programs)} members called data.pkl, or a very large one")
    order = archive.NameToInfo.get(programs[0].filename.removesuffix("data.pkl") + "byteorder")
    if order and (order.file_size > 6 or archive.read(order) != b"little"):
        raise RefusedError("it was written on a big-endian machine, which is not read here.")
    return programs[0]


def _fill(values: Tensor, file: IO[bytes]) -> None:
    """The numbers of a storage, in place: they are in memory once."""
    waiting = values.view(torch.uint8).numpy().data
    while waiting:
        count = file.readinto(waiting[: 2**20])  # type: ignore[attr-defined]
        if not count:
            raise EOFError("it ends within the numbers of a tensor")
        waiting = waiting[count:]


def _machine(account: Account, load: Load | None = None) -> Machine:
    def inner(data: bytes) -> Any:
        account.enter(len(data))
        made = _read_stream(io.BytesIO(data), account)
        account.depth -= 1
        return made

    return Machine(CheckpointValues(account, inner), account, load)


_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save's former format


def _read_stream(file: IO[bytes], account: Account) -> Any:
    """A pickle; or torch.save's former format: five pickles, then the storages."""
    first = _machine(account).run(file)
    if not isinstance(first, int) or first != _MAGIC:
        return first
    storages: dict[str, tuple[torch.dtype, int, Storage]] = {}

    def load(identity: tuple) -> Storage | Name:
        if identity[0] == "module":  # a class, and where its source lay
            return expect(identity[1], Name)
        what, kind, name, _, count, *view = identity
        if what != "storage" or (view and view[0] is not None):
            raise RefusedError("a persistent id that is not a storage's is refused.")
        dtype = dtype_of(kind)
        if expect(name, str) not in storages:
            account.spend(16)
            account.fill(expect(count, int) * dtype.itemsize)
            # Filled in place, once all tensors are described.
            storages[name] = dtype, count, Storage(torch.zeros(count, dtype=dtype))
        if storages[name][:2] != (dtype, expect(count, int)):
            raise ValueError("a storage that is said to be of two types or sizes")
        return storages[name][2]

    _machine(account).run(file)  # the format's version
    facts = _machine(account).run(file)
    if isinstance(facts, dict) and facts.get("little_endian") is False:
        raise RefusedError("it was written on a big-endian machine, which is not read here.")
    result = _machine(account, load).run(file)
    for name in expect(_machine(account).run(file), list):
        _, count, made = storages.pop(expect(name, str))
        (length,) = struct.unpack("<q", file.read(8))
        if length != count:
            raise ValueError(f"a storage of {length} numbers, not {count}")
        _fill(made.values, file)
    if storages:
        raise ValueError(f"{len(storages)} storages whose numbers are not in the file")
    return result
