"""The room that visitors' files take on the disk."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from threading import Lock

from overtone.studio.limits import KEPT

LEAST = 2**16
"""bytes that a file counts at least, so that many empty ones are not free"""
FRESH = 2.0
"""seconds for which a count is believed"""


class Uploads:
    """The files below `folder`, but for those in `spared`, and whether there is room for more.

    A folder has a file that a visitor gave; a file beside the folders is what was left of an upload
    that failed. gradio removes the former when they are old, and this the latter and empty folders.
    """

    def __init__(self, folder: Path, most: int, spared: str) -> None:
        self._folder, self._most, self._spared = folder, most, spared
        self._bytes, self._counted, self._lock = 0, -FRESH, Lock()

    def takes(self, size: int) -> bool:
        """Whether an upload of this many bytes fits; if so, it is counted from now on."""
        with self._lock:
            now = time.monotonic()
            if now - self._counted > FRESH:
                self._bytes, self._counted = self._count(), now
            if self._bytes > self._most:
                return False
            self._bytes += max(size, LEAST)
            return True

    def _count(self) -> int:
        total, old = 0, time.time() - KEPT
        for place in os.scandir(self._folder):
            with contextlib.suppress(OSError):  # removed meanwhile
                if place.is_dir(follow_symlinks=False):
                    if place.name != self._spared:
                        total += _files_in(Path(place.path), old)
                elif place.stat(follow_symlinks=False).st_mtime < old:
                    os.unlink(place.path)
                else:
                    total += max(place.stat(follow_symlinks=False).st_size, LEAST)
        return total


def _files_in(place: Path, old: float) -> int:
    """The bytes of the files in a folder, which is removed if it is old and has none."""
    sizes = [max(file.stat().st_size, LEAST) for file in place.rglob("*") if file.is_file()]
    if not sizes and place.stat().st_mtime < old:
        place.rmdir()
    return sum(sizes)
