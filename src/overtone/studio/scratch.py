"""Where a studio writes what a browser fetches: a directory of its own that never grows beyond a
size."""

from __future__ import annotations

import secrets
import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import Lock


class Scratch:
    """Files by names that nobody guesses. The oldest go where all together would take more than
    `most` bytes, but for the `spared` newest."""

    def __init__(self, folder: Path, most: int, spared: int = 80) -> None:
        self.folder, self._most, self._spared = folder, most, spared
        folder.mkdir(parents=True, exist_ok=True)
        self._files: deque[tuple[Path, int]] = deque()
        self._lock = Lock()

    def write(self, name: str, write: Callable[[Path], None]) -> str:
        """The path of a new file of this name, which `write` makes."""
        place = self.folder / secrets.token_urlsafe(16)
        place.mkdir()
        file = place / name
        write(file)
        with self._lock:
            self._files.append((place, file.stat().st_size))
            while self._bytes > self._most and len(self._files) > self._spared:
                shutil.rmtree(self._files.popleft()[0], ignore_errors=True)
        return str(file)

    @property
    def _bytes(self) -> int:
        return sum(size for _, size in self._files)
