"""Files from elsewhere, opened and read within bounds."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

LARGEST_TEXT = 2**26
"""bytes of a file of settings or facts"""


def open_regular(path: Path) -> io.BufferedReader:
    """A file to read from. Raises `OSError` for what is missing or no regular file: a pipe would
    keep us waiting, a device never ends."""
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file")
    return file


def read_regular(path: Path, most: int = LARGEST_TEXT) -> bytes:
    """The bytes of a file. Raises `OSError` as `open_regular` does, and for one larger than `most`
    bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, and {most:,} are the most")
        return file.read(size)
