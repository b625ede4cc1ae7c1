"""Where something is to be written: whether it can be, and whether there is room for it."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from overtone.errors import OvertoneError

_FULL = re.compile(
    # NumPy says how many numbers it was asked to write, and how many it wrote.
    r"No space left on device|Disk quota exceeded|os error (28|122)\b"
    r"|^\d+ requested and \d+ written"
)
FILES = (".png", ".json", ".csv")
"""suffixes of what is written as one file"""
ADVICE = "free some space or choose another place, then run the same command again"


def check_place(path: Path) -> None:
    """Raises `OvertoneError` where nothing could be written to a path: before the work, not
    behind it."""
    wrong = ""
    try:
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
        if there != path and not there.is_dir():
            wrong = f"{there} is a file"
        elif there == path and path.is_dir() and path.suffix.lower() in FILES:
            wrong = "a directory of that name is there"
        elif there == path and not (path.is_dir() or path.is_file()):
            wrong = "it is a device or a pipe"
        elif not os.access(there, os.W_OK):
            wrong = f"{there} can't be written to"
    except OSError as error:  # a name that is too long
        wrong = f"{error.strerror}"
    if wrong:
        raise OvertoneError(f"{path} can't be written: {wrong}. Choose another --out.")


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that a disk is full, or a quota, whoever raised it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if _FULL.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
