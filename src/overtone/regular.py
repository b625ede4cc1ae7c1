"""Files from elsewhere, opened and read within bounds."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

LARGEST_TEXT = 2**26
"""bytes of a file of settings or facts"""


READ_ONLY = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""flags of a file that is read: no pipe keeps us waiting, and Windows changes no line ends"""


def read_at(file: int, out: memoryview, place: int) -> int:
    """Read into bytes from a place of an open file, and return how many were read. Where the system
    has no such call the file's own position moves."""
    if hasattr(os, "preadv"):
        return os.preadv(file, [out], place)
    os.lseek(file, place, os.SEEK_SET)
    read = os.read(file, len(out))
    out[: len(read)] = read
    return len(read)


def open_regular(path: Path) -> io.BufferedReader:
    """A file to read from. Raises `OSError` for what is missing or no regular file: a pipe would
    keep us waiting, a device never ends."""
    file = open(os.open(path, READ_ONLY), "rb")  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file")
    return file


def read_regular(path: Path, most: int = LARGEST_TEXT) -> bytes:
    """The bytes of a file. Raises `OSError` as `open_regular` does, and for one larger than `most`
    bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, and {most:,} are the most")
        return file.read(size)
