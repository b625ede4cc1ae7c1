"""Arrays in NumPy's files, opened without executing anything: no pickle is ever read.

Whatever such a file says of itself is held against its size before memory is taken for it.
"""

from __future__ import annotations

import ast
import contextlib
import math
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from overtone import storage
from overtone.data.archives import DENSE, ENCRYPTED, RATIO
from overtone.errors import OvertoneError
from overtone.filekind import kind_of
from overtone.regular import open_regular

MAGIC = b"\x93NUMPY"
LARGEST_HEADER = 10_000
"""bytes, as NumPy itself reads at most"""
LARGEST_DIRECTORY = 2**20
"""bytes of a zip's directory: some ten thousand names"""
CHUNK = 2**20
"""bytes that are read or inflated at a time"""
WAYS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_AGAIN = "copy or download it again"


@dataclass(frozen=True)
class StoredArray:
    """An array in a file, whose numbers are not read yet."""

    file: Path
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    """Whether the first index changes fastest."""
    skipped: int
    """The length of the array's header in bytes."""
    member: zipfile.ZipInfo | None
    """The array's place in a zip. None stands for a file of one array."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def packed(self) -> bool:
        """Whether its numbers are compressed, and not found in the file as they are."""
        return self.member is not None and self.member.compress_type != zipfile.ZIP_STORED

    @property
    def offset(self) -> int:
        """Where in the file its numbers begin, if they are not packed."""
        return (
            self.skipped if self.member is None else _start(self.file, self.member) + self.skipped
        )

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, one part after another. Raises `OvertoneError` for what is damaged."""
        left = self.nbytes
        with reading(self.file), _opened(self.file, self.member) as stream:
            stream.read(self.skipped)
            while left and (part := stream.read(min(CHUNK, left))):
                left -= len(part)
                yield part
            if left or stream.read(1):  # which also has zipfile compare its checksum
                raise ValueError(f"the array {self.name} is not as long as it says")

    def read(self) -> np.ndarray:
        """All of it, in memory."""
        whole = np.empty(self.nbytes, np.uint8)
        at = 0
        for part in self.chunks():
            whole[at : at + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
        return whole.view(self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


class ArrayFile:
    """An .npz or .npy file, of which only the list of its arrays is read.

    An .npy file is its one array, called arr_0. Raises `OvertoneError` for what is neither.
    """

    def __init__(self, file: Path) -> None:
        self.file = Path(file)
        self._members: dict[str, zipfile.ZipInfo] = {}
        with reading(self.file), open_regular(self.file) as opened:
            first = opened.read(len(MAGIC))
            self._single = first == MAGIC
            if not self._single and not zipfile.is_zipfile(opened):
                kind = kind_of(self.file) if first[:2] != b"PK" else ""
                raise ValueError(f"it is {kind}" if kind else "it is cut short, or no such file")
            if not self._single:
                with _archive(opened) as archive:
                    entries = archive.infolist()
                self._members = {_title(entry): entry for entry in entries}
                if len(self._members) < len(entries):
                    raise ValueError("it holds two arrays of one name")

    @property
    def names(self) -> list[str]:
        """The names of its arrays, and of other files in it, in their order."""
        return ["arr_0"] if self._single else list(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def array(self, name: str) -> StoredArray:
        """What the file says of one of its arrays, held against the size of the file."""
        member = None if self._single else self._members[name]
        with reading(self.file):
            size = self._size(name, member)
            with _opened(self.file, member) as stream:
                dtype, shape, fortran, skipped = _header(stream, name)
            found = StoredArray(self.file, name, dtype, shape, fortran, skipped, member)
            if found.nbytes != size - skipped:
                raise ValueError(
                    f"its array {name} says that it is {_shown(shape)} of {dtype}, which are"
                    f" {found.nbytes:,} bytes, and {size - skipped:,} are there"
                )
        return found

    def _size(self, name: str, member: zipfile.ZipInfo | None) -> int:
        """The bytes of an array with its header, which are there or can be made of what is."""
        whole = self.file.stat().st_size
        if member is None:
            return whole
        size, packed = member.file_size, member.compress_size
        if member.flag_bits & ENCRYPTED:
            raise ValueError(f"its array {name} is encrypted")
        if member.compress_type not in WAYS:
            raise ValueError(f"its array {name} is packed in the way {member.compress_type}")
        if _start(self.file, member) + packed > whole:
            raise ValueError(f"its array {name} ends behind the end of the file: {_AGAIN}")
        if member.compress_type == zipfile.ZIP_STORED and size != packed:
            raise ValueError(f"its array {name} has {packed:,} bytes, and says {size:,}: {_AGAIN}")
        if packed != size > max(DENSE, RATIO * packed):
            raise ValueError(
                f"its array {name} has {packed:,} bytes, and would become {size:,}: write it with"
                " np.savez, which does not pack"
            )
        return size


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Whatever goes wrong within becomes one line that names the file."""
    try:
        yield
    except OvertoneError:
        raise
    except OSError as error:
        raise OvertoneError(f"{file} can't be read ({error.strerror or error}).") from None
    except ValueError as error:
        raise OvertoneError(f"{file} can't be read: {error}.") from None
    except Exception as error:  # damaged archives make zipfile raise almost anything
        reason = str(error) or "it ends too early"
        raise OvertoneError(f"{file} can't be read ({reason}): {_AGAIN}.") from None


class _Bounded:
    """A file that is not read in parts as large as no directory is."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._read = file.read

    def read(self, size: int = -1) -> bytes:
        if size > LARGEST_DIRECTORY:
            raise ValueError(f"its directory has {size:,} bytes, and few arrays need none so large")
        return self._read(size)


@contextlib.contextmanager
def _opened(file: Path, member: zipfile.ZipInfo | None) -> Iterator[IO[bytes]]:
    """A stream of what a file, or a member of a zip, holds."""
    with open_regular(file) as opened:
        if member is None:
            yield opened
            return
        with _archive(opened) as archive, archive.open(member) as stream:
            yield stream


def _archive(opened: IO[bytes]) -> zipfile.ZipFile:
    bounded: Any = _Bounded(opened)
    return zipfile.ZipFile(bounded)


def _start(file: Path, member: zipfile.ZipInfo) -> int:
    """Where the contents of a member begin."""
    with open_regular(file) as opened:
        opened.seek(member.header_offset)
        head = opened.read(30)  # which ends with the lengths of what is before the contents
    if len(head) < 30 or head[:4] != b"PK\3\4":
        raise ValueError(f"nothing of {member.filename} is where the directory says: {_AGAIN}")
    return member.header_offset + 30 + sum(struct.unpack("<26xHH", head))


def _header(stream: IO[bytes], name: str) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    """The type, the shape and the order of an array, and the bytes that say so."""
    magic = stream.read(8)
    if magic[:6] != MAGIC or len(magic) < 8:
        raise ValueError(f"its member {name} is not an array of NumPy's")
    if magic[6] not in (1, 2):
        raise ValueError(f"its array {name} has a header of version {magic[6]}, and 1 or 2 is read")
    wide = magic[6] == 2
    (length,) = struct.unpack("<I" if wide else "<H", stream.read(4 if wide else 2))
    if length > LARGEST_HEADER:
        raise ValueError(f"the header of its array {name} has {length:,} bytes")
    text = stream.read(length)
    try:
        told = ast.literal_eval(text.decode("latin1").strip())
        dtype, shape, fortran = told["descr"], told["shape"], told["fortran_order"]
        whole = all(type(n) is int and 0 <= n < 2**48 for n in shape) and len(shape) <= 32
        if not isinstance(dtype, str) or not isinstance(fortran, bool) or not whole:
            raise ValueError
        kind = np.dtype(dtype)
    except Exception:  # whatever a made-up header makes of Python's own reader and of NumPy
        raise ValueError(f"the header of its array {name} can't be read: {_AGAIN}") from None
    if kind.hasobject:
        raise ValueError(f"its array {name} is of Python's objects: they would be executed")
    return kind, tuple(shape), fortran, 8 + (4 if wide else 2) + length


def _title(entry: zipfile.ZipInfo) -> str:
    return entry.filename.removesuffix(".npy")


def _shown(shape: Iterable[int]) -> str:
    return f"({', '.join(map(str, shape))})"


def write_arrays(file: Path, write: Callable[[Callable[..., None]], None]) -> None:
    """A new .npz file, whole or not at all, as `np.load` reads it.

    `write` is called with a function `add(name, dtype, shape, parts)`, which writes an array from
    its bytes part by part, so that it need not be in memory. The same arrays make the same bytes.
    """
    with storage.new_file(file) as temporary, zipfile.ZipFile(temporary, "w") as archive:

        def add(name: str, dtype: Any, shape: tuple[int, ...], parts: Iterable[Any]) -> None:
            info = zipfile.ZipInfo(f"{name}.npy")
            info.external_attr = 0o600 << 16
            told = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
            with archive.open(info, "w", force_zip64=True) as stream:
                np.lib.format.write_array_header_1_0(stream, told)
                for part in parts:
                    stream.write(part)

        write(add)
