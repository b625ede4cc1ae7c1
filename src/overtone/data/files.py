"""Folders of images, as lists of files that `layout` reads, and what tells files from others."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from overtone.data.labels import LABELS_FILE
from overtone.data.layout import DEEPEST, SHOWN, File, Layout, is_hidden, is_image
from overtone.errors import OvertoneError
from overtone.regular import READ_ONLY, read_regular

LARGEST_FILE = 2**30
"""bytes of an image's file"""
MOST_LINKS = 8
"""times that one folder is read, through links"""
SAMPLED, SAMPLED_BYTES = 16, 4096
"""files of a folder of which so many bytes are read at three places, beside what the system says of
all of them, to tell its contents from another's"""


def folder_layout(root: Path) -> Layout:
    """The files in a folder. Links are followed, but for those back to where they are."""
    walk, place = _Walk(), os.path.realpath(root)
    walk.read(str(root), "", frozenset(_place(str(path)) for path in Path(place).parents), 0)
    walk.files.sort(key=lambda file: file.name)
    identity = f"{place} {_sampled(place, [f.name for f in walk.files if is_image(f.name)])}"
    return Layout(str(root), walk.files, walk.folders, identity, walk.notes())


def read_file(path: str) -> bytes:
    """The bytes of a file. Raises `OSError` for what is none, or too large."""
    # As many as are read, memory is taken for.
    return read_regular(Path(path), min(os.stat(path).st_size, LARGEST_FILE))


def contents_key(layout: Layout) -> str:
    """What tells all that a folder holds from another's, and from itself when changed."""
    sample = _sampled(layout.where, [f.name for f in layout.files])
    return "\n".join((layout.identity, sample, *(f"{f.name} {f.stamp}" for f in layout.files)))


def file_key(path: Path) -> str:
    """What tells a file from another, and from itself when changed. Raises `OSError` for one that
    can't be read."""
    digest = hashlib.sha256(_sample(str(path))).hexdigest()
    return f"{os.path.realpath(path)} {_stamp(os.stat(path))} {digest}"


@dataclass
class _Walk:
    """What is found below a folder."""

    files: list[File] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    circles: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    times: Counter[tuple[int, int]] = field(default_factory=Counter)

    def read(self, path: str, name: str, above: frozenset[tuple[int, int]], depth: int) -> None:
        """All in the folder at `path`, which is called `name` below the root; `above` are the
        folders that it is in."""
        try:
            place = _place(path)
            with os.scandir(path) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if is_hidden(name):  # as a disk's own lost+found
                return
            raise OvertoneError(
                f"the folder {path} can't be read ({error.strerror}): make it readable, or remove"
                " it."
            ) from None
        if place in above:
            self.circles.append(name)
            return
        self.times[place] += 1
        if self.times[place] > MOST_LINKS or depth > DEEPEST:
            many = f"{MOST_LINKS} links" if depth <= DEEPEST else f"{DEEPEST} folders"
            raise OvertoneError(
                f"{path} is reached through more than {many}: remove some, or name another folder."
            )
        self.folders.add(name)
        for entry in found:
            below = f"{name}/{entry.name}" if name else entry.name
            if _is_folder(entry):
                self.read(entry.path, below, above | {place}, depth + 1)
            else:
                self._add(below, entry.path)

    def _add(self, name: str, path: str) -> None:
        read = partial(read_file, path)
        try:
            own = os.stat(path)
            self.files.append(File(name, read, _stamp(own), own.st_size))
        except OSError:  # reading it says so, or the note on those that would not be read
            self.files.append(File(name, read, "missing"))
            if not (is_image(name) or is_hidden(name) or os.path.basename(name) == LABELS_FILE):
                self.dangling.append(name)

    def notes(self) -> list[str]:
        notes = [f"{name} leads back to a folder that it is in" for name in self.circles]
        notes += [f"{name} leads nowhere" for name in self.dangling]
        shown, more = notes[:SHOWN], len(notes) - SHOWN
        return [*shown, f"{more:,} more links lead nowhere or back"] if more > 0 else shown


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle by itself
        return False


def _place(path: str) -> tuple[int, int]:
    own = os.stat(path)
    return own.st_dev, own.st_ino


def _stamp(own: os.stat_result) -> str:
    """What changes with a file's contents, even where its time was set back."""
    return f"{own.st_ino} {own.st_size} {own.st_mtime_ns} {own.st_ctime_ns}"


def _sampled(root: str, names: Sequence[str]) -> str:
    """A digest of some bytes of some files, evenly spread."""
    digest = hashlib.sha256()
    for name in names[:: max(1, len(names) // SAMPLED)]:
        digest.update(_sample(os.path.join(root, name)))
    return digest.hexdigest()


def _sample(path: str) -> bytes:
    """The first bytes of a file, some in its middle and the last; none of what can't be read."""
    try:
        # A pipe would keep us waiting.
        with open(os.open(path, READ_ONLY), "rb") as file:
            own = os.fstat(file.fileno())
            if not stat.S_ISREG(own.st_mode):
                return b""
            parts = []
            for place in (0, own.st_size // 2, max(0, own.st_size - SAMPLED_BYTES)):
                file.seek(place)
                parts.append(file.read(SAMPLED_BYTES))
            return b"".join(parts)
    except OSError:
        return b""
