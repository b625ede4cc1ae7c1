"""Where a studio writes what a browser fetches: a directory of its own that never grows beyond a
size."""

from __future__ import annotations

import secrets
import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import Lock

BLOCK = 4_096
"""bytes that a folder, or the smallest file, takes on a disk"""


class Scratch:
    """Files by names that nobody guesses. The oldest go where all together would take more than
    `most` bytes, but for the `spared` newest."""

    def __init__(self, folder: Path, most: int, spared: int = 80) -> None:
        self.folder, self._most, self._spared = folder, most, spared
        folder.mkdir(parents=True, exist_ok=True)
        self._files: deque[tuple[Path, int]] = deque()
        self._bytes, self._lock = 0, Lock()

    def write(self, name: str, write: Callable[[Path], None]) -> str:
        """The path of a new file of this name, which `write` makes."""
        place = self.folder / secrets.token_urlsafe(16)
        place.mkdir()
        file = place / name
        write(file)
        size = BLOCK + max(BLOCK, file.stat().st_size)
        with self._lock:
            self._files.append((place, size))
            self._bytes += size
            while self._bytes > self._most and len(self._files) > self._spared:
                oldest, its = self._files.popleft()
                shutil.rmtree(oldest, ignore_errors=True)
                self._bytes -= its
        return str(file)
