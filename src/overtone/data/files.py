"""Folders and archives of images, as lists of files that `layout` reads."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock

from overtone import storage
from overtone.data.layout import File, Layout
from overtone.errors import OvertoneError

LARGEST_FILE = 2**30
"""bytes of an image's file; and of what an archive's member grows to, above `DENSE`"""
DENSE = 2**26
"""bytes up to which a member of an archive may be packed in any way; above it `RATIO` times"""
RATIO = 100
MOST_LINKS = 8
"""times that one folder is read, through links"""
SAMPLED, SAMPLED_BYTES = 16, 4096
"""files of a folder of which so many bytes are read, to tell its contents from another's"""


def folder_layout(root: Path) -> Layout:
    """A folder of images. Links are followed, once where they lead in a circle."""
    files, folders = [], []
    for folder, name, path in _walk(str(root), "", frozenset(), Counter()):
        if folder:
            folders.append(name)
        else:
            files.append(_file(name, path))
    files.sort(key=lambda file: file.name)
    return Layout(str(root), files, folders, f"{root.resolve()} {_sample(files)}")


def zip_layout(file: Path) -> Layout:
    """A zip of images, read in place: nothing is unpacked."""
    try:
        identity = f"{file.resolve()} {_stamp(file.stat())}"
        archive = zipfile.ZipFile(file)
        entries = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise OvertoneError(
            f"{file} can't be read as a zip ({error}): unpack any other archive to a folder."
        ) from None
    lock = Lock()

    def opener(entry: zipfile.ZipInfo) -> Callable[[], bytes]:
        def read() -> bytes:
            if entry.file_size > DENSE and entry.file_size > RATIO * entry.compress_size:
                raise ValueError(
                    f"{entry.compress_size:,} bytes that would become {entry.file_size:,}"
                )
            _check_size(entry.file_size)
            with lock:
                return archive.read(entry)

        return read

    files, folders = [], set()
    for entry in entries:
        name = _clean(entry.filename)
        folders |= {name[:at] for at, letter in enumerate(name) if letter == "/"}
        if entry.is_dir() or entry.filename.endswith("\\"):
            folders.add(name)
        else:
            stamp = f"{entry.file_size} {entry.CRC}"
            files.append(File(name, opener(entry), stamp, entry.file_size))
    (name, count), *_ = Counter(f.name for f in files).most_common(1) or [("", 0)]
    if count > 1:
        raise OvertoneError(f"{file} holds {count} files called {name}: pack it anew with one.")
    return Layout(str(file), files, folders, identity)


def _clean(name: str) -> str:
    """The name of an archive's member, whatever tool wrote it: "./a\\b.png" is a/b.png."""
    parts = name.replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def _walk(
    path: str, name: str, above: frozenset[tuple[int, int]], walked: Counter[tuple[int, int]]
) -> Iterator[tuple[bool, str, str]]:
    """Whether it is a folder, the name below the root and the path of all that is in a folder."""
    own = os.stat(path)
    place = own.st_dev, own.st_ino
    if place in above:
        return  # a link back to where one came from
    walked[place] += 1
    if walked[place] > MOST_LINKS:
        raise OvertoneError(f"{path} is linked to from more than {MOST_LINKS} places.")
    with os.scandir(path) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        below = f"{name}{entry.name}"
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link that leads in a circle by itself
            is_folder = False
        yield is_folder, below, entry.path
        if is_folder:
            yield from _walk(entry.path, f"{below}/", above | {place}, walked)


def contents_key(path: Path) -> str:
    """What tells a file, or all that a folder holds, from another and from itself when changed."""
    if path.is_file():
        return f"{path.resolve()} {_stamp(path.stat())}"
    layout = folder_layout(path)
    return "\n".join((layout.identity, *(f"{f.name} {f.stamp}" for f in layout.files)))


def _file(name: str, path: str) -> File:
    try:
        own = os.stat(path)
    except OSError:  # a dangling link: reading it says so
        return File(name, lambda: Path(path).read_bytes(), "missing")

    def read() -> bytes:
        return storage.read_regular(Path(path), LARGEST_FILE)

    return File(name, read, _stamp(own), own.st_size)


def _check_size(size: int) -> None:
    if size > LARGEST_FILE:
        raise ValueError(f"{size:,} bytes, and {LARGEST_FILE:,} are the most")


def _stamp(own: os.stat_result) -> str:
    """What changes with a file's contents, even where its time was set back."""
    return f"{own.st_ino} {own.st_size} {own.st_mtime_ns} {own.st_ctime_ns}"


def _sample(files: Sequence[File]) -> str:
    """A digest of the first bytes of some files, evenly spread."""
    digest = hashlib.sha256()
    for file in files[:: max(1, len(files) // SAMPLED)]:
        if file.size <= DENSE:
            with contextlib.suppress(OSError, ValueError):
                digest.update(file.read()[:SAMPLED_BYTES])
    return digest.hexdigest()
