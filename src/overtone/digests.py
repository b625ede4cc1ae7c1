"""Digests of files, which tell whether they are as they were written."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests_in(folder: Path, without: Collection[str] = ()) -> dict[str, str]:
    """SHA-256 of every file below a directory, by its name there, but for those called as in
    `without`."""
    found = (file for file in folder.rglob("*") if file.is_file() and file.name not in without)
    files = sorted(found)
    with ThreadPoolExecutor() as pool:  # hashing works outside Python's lock
        digests = pool.map(digest_of_file, files)
        names = (file.relative_to(folder).as_posix() for file in files)
        return dict(zip(names, digests, strict=True))


def difference_in(folder: Path, digests: Mapping[str, str]) -> str:
    """What keeps a directory from being as it was when `digests_in` was asked; "" for nothing."""
    for name, digest in digests.items():
        file = folder / name
        if not file.is_file():
            return f"{file} is missing"
        try:
            if digest_of_file(file) != digest:
                return f"{file} is damaged or was cut short: it is not what was written"
        except OSError as error:
            return f"{file} can't be read ({error.strerror})"
    return ""
