"""Names of data. Nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from overtone.errors import OvertoneError

NAMES = ("builtin:digits", "builtin:glyphs", "builtin:photos", "fashion-mnist")
"""The data sets that Overtone knows by itself."""

SUFFIXES = {
    *(".apng", ".avif", ".avifs", ".bmp", ".bw", ".dds", ".dib", ".gif", ".icb", ".ico", ".j2c"),
    *(".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm"),
    *(".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".rgb", ".rgba", ".sgi", ".tga"),
    *(".tif", ".tiff", ".vda", ".vst", ".webp"),
}
"""The suffixes of files that are read as images: those of `images.FORMATS`."""

TABLES = (".parquet", ".arrow")
"""The suffixes of files that are read as tables, with `hf:` before their names or without."""

Opener = Callable[[int, int, str], Any]
"""(resolution, channels, split) -> data of one's own, or None where there is no such split"""

GIVEN = "python:"
"""The name of data that were given as an object begins with this."""


def given_name(name: str) -> str:
    """The name, for files, of data that were given as an object, which no command can open."""
    return f"{GIVEN}{name}"


OPENERS: dict[str, Opener] = {}
"""The data sets that somebody has registered, by name."""


def data_set(name: str) -> Callable[[Opener], Opener]:
    """Registers a function as what opens the data set of that name.

        @data_set("shapes")
        def shapes(resolution, channels, split):
            return Shapes(resolution) if split == "train" else None

    What it returns is what `overtone.data.own_data` takes. Raises `OvertoneError` for a name that
    is taken, or that could be a path.
    """
    if not isinstance(name, str):
        raise OvertoneError('a data set is registered by a name: @data_set("shapes").')
    if not name or name in NAMES or any(mark in name for mark in "/\\:?*.") or name != name.strip():
        raise OvertoneError(
            f"a data set can't be called '{name}': choose a word that is not a path and none of"
            f" {', '.join(NAMES)}."
        )

    def register(opener: Opener) -> Opener:
        there = OPENERS.get(name)
        if there is not None and _place(there) != _place(opener):
            raise OvertoneError(
                f"two data sets are called '{name}', in {there.__module__} and in"
                f" {opener.__module__}: rename one of them."
            )
        OPENERS[name] = opener
        return opener

    return register


def _place(opener: Opener) -> tuple[str, str]:
    return opener.__module__, opener.__qualname__


def in_full(name: str) -> str:
    """The name of a table's file, options behind it or not, with the `hf:` that was left out; any
    other name as it is."""
    if name.startswith(("hf:", GIVEN)) or is_known(name):
        return name
    paths = (path_of(part) for part in (name, name.partition("?")[0]))
    table = any(p.suffix.lower() in TABLES and os.path.isfile(p) for p in paths)
    return f"hf:{name}" if table else name


def absolute(name: str) -> str:
    """A name that means the same from any directory: the absolute path of what is there; any other
    name, of the Hub or of a data set, as it is."""
    name = in_full(name)
    if is_known(name) or name.startswith(GIVEN) or not name:
        return name
    scheme, path = ("hf:", name.removeprefix("hf:")) if name.startswith("hf:") else ("", name)
    path, mark, query = path.partition("?") if scheme else (path, "", "")
    place = path_of(path)
    there = os.path.exists(place)
    return f"{scheme}{place.absolute()}{mark}{query}" if there else name


def path_of(name: str) -> Path:
    """A name as a path; ~ is the home folder. What stands there is asked of `os.path`, which says
    no to a name that no file can have, where `Path` raises."""
    return Path(os.path.expanduser(name))


def text_of(name: str) -> str:
    """The name of a file as text that can be written: bytes that are not UTF-8, which Python reads
    as halves of letters, are written as escapes."""
    return name.encode(errors="backslashreplace").decode()


def is_known(name: str) -> bool:
    """Whether a name is that of a data set, Overtone's or a registered one."""
    return name in NAMES or name in OPENERS
