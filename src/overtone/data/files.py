"""Folders and zip files of images.

The class of an image is its sub-folder, or what `dataset.json` says where there is one: the layout
of EDM's and StyleGAN's tools, {"labels": [["00000/img00000000.png", 6], ...]}, in a folder or a
zip. Names in that file are only compared with those of the images found, never opened.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

from PIL import Image

from overtone.data.images import Item, Source, open_image
from overtone.data.names import SUFFIXES
from overtone.errors import OvertoneError

LABELS_FILE = "dataset.json"


def folder_source(root: Path, split: str = "train") -> Source:
    """A folder of images; one that has `train` and `test` (or `val`, `valid`, `validation`) in it
    is taken as the two splits."""
    if has_splits(root):
        root = root / ("train" if split == "train" else _test_folder(root) or split)
    elif split != "train":
        raise OvertoneError(f"{root} has no test split: give it sub-folders 'train' and 'test'.")
    files = sorted(
        f for f in root.rglob("*") if _is_image(f.relative_to(root).as_posix()) and f.is_file()
    )
    names = [f.relative_to(root).as_posix() for f in files]
    stats = [f.stat() for f in files]
    stamps = [f"{n} {s.st_size} {s.st_mtime_ns}" for n, s in zip(names, stats, strict=True)]
    labels, text = root / LABELS_FILE, None
    if labels.exists():
        text = _text(labels.read_bytes, str(labels))

    def opener(file: Path) -> Callable[[], Image.Image]:
        return lambda: open_image(BytesIO(file.read_bytes()))

    return _source(str(root), names, [opener(f) for f in files], stamps, text)


def zip_source(file: Path, split: str = "train") -> Source:
    """A zip of images, read in place: nothing is unpacked."""
    if split != "train":
        raise OvertoneError(f"{file} has no test split.")
    try:
        archive = zipfile.ZipFile(file)
        entries = archive.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise OvertoneError(f"{file} can't be read as a zip ({error}).") from None
    images = sorted(
        (e for e in entries if _is_image(e.filename)),
        key=lambda e: e.filename,
    )
    lock = Lock()

    def opener(entry: zipfile.ZipInfo) -> Callable[[], Image.Image]:
        def read() -> Image.Image:
            with lock:
                content = archive.read(entry)
            return open_image(BytesIO(content))

        return read

    names = [e.filename for e in images]
    stamps = [f"{e.filename} {e.file_size} {e.CRC}" for e in images]
    text = None
    if LABELS_FILE in archive.namelist():
        text = _text(lambda: archive.read(LABELS_FILE), f"{file}/{LABELS_FILE}")
    return _source(str(file), names, [opener(e) for e in images], stamps, text)


def _text(read: Callable[[], bytes], where: str) -> str:
    try:
        return read().decode()
    except Exception as error:  # unreadable, encrypted, damaged, not UTF-8
        raise OvertoneError(f"{where} can't be read ({error}).") from None


def has_splits(root: Path) -> bool:
    """Whether a folder holds a training and a test split, rather than classes."""
    return (root / "train").is_dir() and _test_folder(root) is not None


def _test_folder(root: Path) -> str | None:
    names = ("test", "val", "valid", "validation")
    return next((name for name in names if (root / name).is_dir()), None)


def _is_image(name: str) -> bool:
    """Whether a file is called like an image, and no part of its path like a hidden file."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _source(
    where: str,
    names: list[str],
    readers: list[Callable[[], Image.Image]],
    stamps: list[str],
    labels_text: str | None,
) -> Source:
    if not names:
        raise OvertoneError(
            f"{where} holds no images (looked for {', '.join(sorted(SUFFIXES))}), sub-folders too."
        )
    labels: Sequence[int | None]
    if labels_text is not None:
        labels, classes = _labels_of(names, labels_text, f"{where}/{LABELS_FILE}")
    else:
        labels, classes = _sub_folders(names, where)
    items = [
        Item(f"{where}/{name}", read, label)
        for name, read, label in zip(names, readers, labels, strict=True)
    ]
    key = "\n".join([where, *stamps, labels_text or ""])
    return Source(where, key, lambda: items, len(items), classes)


def _sub_folders(names: list[str], where: str) -> tuple[list[int | None], list[str]]:
    tops = [name.split("/")[0] if "/" in name else None for name in names]
    if where.endswith(".zip") and len(set(tops)) == 1 and tops[0] is not None:
        # Everything in one folder, as archives often are: the classes are the next ones.
        deeper = [name.split("/", 1)[1] for name in names]
        if all("/" in name for name in deeper):
            tops = [name.split("/")[0] for name in deeper]
    classes = sorted({top for top in tops if top is not None})
    if classes and None in tops:
        raise OvertoneError(
            f"{where} has images in sub-folders (classes) and beside them"
            f" ({names[tops.index(None)]}): move those into a sub-folder, or away."
        )
    number = {name: i for i, name in enumerate(classes)}
    return [None if top is None else number[top] for top in tops], classes


def _labels_of(names: list[str], text: str, where: str) -> tuple[list[int | None], list[str]]:
    try:
        content: Any = json.loads(text)
        pairs = content["labels"]
        known = None if pairs is None else {name: label for name, label in pairs}  # noqa: C416
    except (ValueError, KeyError, TypeError) as error:
        raise OvertoneError(
            f'{where} is not of the form {{"labels": [["name.png", 0], ...]}} ({error!r}).'
        ) from None
    if known is None:
        return [None] * len(names), []
    for name in names:
        label = known.get(name)
        if name not in known:
            raise OvertoneError(f"{where} has no label for {name}: add it, or remove the image.")
        if type(label) is not int or label < 0:
            raise OvertoneError(f"{where}: the label of {name} is {label!r}, not a class number.")
    labels = [known[name] for name in names]
    return labels, [str(i) for i in range(max(labels) + 1)]
