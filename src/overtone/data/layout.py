"""How files are read as images with classes, by one rule for folders and archives.

    train/cat/0.png   test/cat/1.png     a training and a held-out split, if every folder that holds
                                         images is called like a split; below each what follows
    cat/0.png         dog/1.png          a folder for each class
    00000/img0.png    dataset.json       the labels of EDM's and StyleGAN's tools
    0.png             1.png              images without classes

Each may lie below a single folder, as in most archives. Files that are no images are passed over
and counted. Names in `dataset.json`, {"labels": [["00000/img0.png", 6], ...]}, are only compared
with those of the images found, never opened.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from PIL import Image

from overtone.data.names import SUFFIXES
from overtone.data.reading import Item, Source, open_image
from overtone.errors import OvertoneError

LABELS_FILE = "dataset.json"
MOST_CLASSES = 100_000
LABEL_BYTES = 1024
"""bytes that the file of labels may have for each image, and as many for each of 1024 more"""

TRAINING = ("train", "training", "trn")
HELD_OUT = ("test", "testing", "tst", "val", "valid", "validation", "eval", "evaluation", "dev")
"""What splits are called, the first that is there being taken."""


class File(NamedTuple):
    """A file of a folder or an archive."""

    name: str
    """below the root, its parts separated by /"""
    read: Callable[[], bytes]
    stamp: str
    """changes whenever its contents may have"""
    size: int = 0
    """bytes"""


def split_of(folder: str) -> str | None:
    """The split that a folder of this name holds, one of `TRAINING` or `HELD_OUT`: "Test_set",
    "val2017" and "training-images" are called like one. None for any other name."""
    word = re.sub(r"[\W_]+", "", folder.casefold())
    word = re.sub(r"(19|20)\d\d$", "", word)
    word = re.sub(r"(set|data|images|imgs|split)$", "", word)
    return word if word in (*TRAINING, *HELD_OUT) else None


def is_image(name: str) -> bool:
    """Whether a file is called like an image, and no part of its path like a hidden file."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it is in, is one that systems and editors keep hidden."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


@dataclass
class Layout:
    """The files and folders below a root, and what was made of them."""

    where: str
    files: Sequence[File]
    folders: Iterable[str] = ()
    """every folder below the root, those without files too"""
    identity: str = ""
    """what tells the root from another one of the same name"""

    def __post_init__(self) -> None:
        self.images = sorted((f for f in self.files if is_image(f.name)), key=lambda f: f.name)
        self.labels = {
            f.name.removesuffix(LABELS_FILE): f
            for f in self.files
            if f.name == LABELS_FILE or f.name.endswith(f"/{LABELS_FILE}")
        }
        self.notes: list[str] = []
        """sentences on what was passed over"""

    def has_split(self, split: str) -> bool:
        """Whether there is such a split; without split folders all is 'train'."""
        splits = self._splits(self._descended(""))
        return split in splits if splits else split == "train"

    def source(self, split: str) -> Source:
        """The images of a split, 'train' or 'test'. Raises `OvertoneError` where there are none."""
        if not self.images:
            raise OvertoneError(
                f"{self.where} holds no images (looked for {', '.join(sorted(SUFFIXES))}),"
                f" sub-folders too.{self._others()}"
            )
        base = self._descended("")
        splits = self._splits(base)
        if splits:
            base = self._descended(self._chosen(base, splits, split))
        elif split != "train":
            raise OvertoneError(
                f"{self.where} has no {split} split: give it sub-folders 'train' and 'test'."
            )
        return self._source(base)

    # Where to read.

    def _descended(self, base: str) -> str:
        """`base`, or the folder below it in which all is, classes or labels too."""
        while base not in self.labels:
            names = [f.name[len(base) :] for f in self.images if f.name.startswith(base)]
            tops = {name.partition("/")[0] for name in names}
            if len(tops) != 1 or not all("/" in name for name in names):
                return base
            (top,) = tops
            deeper = f"{base}{top}/"
            whole = all(name.count("/") > 1 for name in names)
            if not (deeper in self.labels or whole) or split_of(top) is not None:
                return base
            base = deeper
        return base

    def _splits(self, base: str) -> dict[str, list[str]]:
        """The folders of images in `base` by split; empty if one of them is no split's."""
        found: dict[str, list[str]] = {}
        names = {f.name[len(base) :] for f in self.images if f.name.startswith(base)}
        for top in sorted({name.partition("/")[0] for name in names if "/" in name}):
            word = split_of(top)
            if word is None:
                return {}
            found.setdefault("train" if word in TRAINING else "test", []).append(top)
        return found

    def _chosen(self, base: str, splits: dict[str, list[str]], split: str) -> str:
        """The folder of a split. The others are said, where nothing else takes them."""
        if split not in splits:
            (other,) = splits
            there = ", ".join(f"'{top}'" for top in splits[other])
            if split == "train":
                raise OvertoneError(
                    f"{self.where} holds a held-out split alone ({there}), which is not trained on:"
                    " rename that folder 'train', or name it as the data itself."
                )
            raise OvertoneError(f"{self.where} has no {split} split, only {there}.")
        order = TRAINING if split == "train" else HELD_OUT
        first, *others = sorted(splits[split], key=lambda top: order.index(split_of(top) or ""))
        if others and split == "train":
            raise OvertoneError(
                f"{self.where} has two training splits, '{first}' and '{others[0]}': rename one."
            )
        for top in others:
            self.notes.append(f"the folder '{top}' is not used beside '{first}'")
        beside = [
            f for f in self.images if f.name.startswith(base) and "/" not in f.name[len(base) :]
        ]
        if beside:
            self.notes.append(
                f"{len(beside):,} images beside the folders of the splits are passed over"
                f" ({beside[0].name})"
            )
        return f"{base}{first}/"

    # What is there.

    def _source(self, base: str) -> Source:
        images = [f for f in self.images if f.name.startswith(base)]
        names = [f.name[len(base) :] for f in images]
        where = f"{self.where}/{base}".rstrip("/")
        text = self._labels_text(base)
        labels: Sequence[int | None]
        if text is not None:
            above, content, place = text
            labels, classes = _labels_of([f.name[len(above) :] for f in images], content, place)
        else:
            labels, classes = self._sub_folders(names, base, where)
        items = [
            Item(f"{where}/{name}", _opener(file), label)
            for name, file, label in zip(names, images, labels, strict=True)
        ]
        stamps = [f"{name} {file.stamp}" for name, file in zip(names, images, strict=True)]
        key = "\n".join([self.identity, base, *stamps, *classes, text[1] if text else ""])
        notes = [*self.notes, *self._passed_over(base)]
        return Source(where, key, lambda: items, len(items), classes, notes)

    def _labels_text(self, base: str) -> tuple[str, str, str] | None:
        """The folder of the labels' file that is nearest above `base`, its text and its place."""
        parts = base.split("/")
        for depth in range(len(parts), 0, -1):
            above = "/".join(parts[: depth - 1]) + "/" if depth > 1 else ""
            file = self.labels.get(above)
            if file is not None:
                place = f"{self.where}/{file.name}"
                if file.size > LABEL_BYTES * (len(self.images) + 1024):
                    raise OvertoneError(
                        f"{place} has {file.size:,} bytes, too many for the labels of"
                        f" {len(self.images):,} images."
                    )
                try:
                    return above, file.read().decode(), place
                except Exception as error:  # unreadable, encrypted, damaged, not UTF-8
                    raise OvertoneError(f"{place} can't be read ({error}).") from None
        return None

    def _sub_folders(
        self, names: list[str], base: str, where: str
    ) -> tuple[list[int | None], list[str]]:
        """Labels by the first folder of each name, numbered with those that hold no image."""
        tops = [name.partition("/")[0] if "/" in name else None for name in names]
        if None in tops and set(tops) != {None}:
            raise OvertoneError(
                f"{where} has images in sub-folders (classes) and beside them"
                f" ({names[tops.index(None)]}): move those into a sub-folder, or away."
            )
        classes = {top for top in tops if top is not None}
        if classes:
            below = (f[len(base) :] for f in self.folders if f.startswith(base))
            classes |= {f for f in below if f and "/" not in f and not is_hidden(f)}
        known = sorted(classes)
        number = {name: i for i, name in enumerate(known)}
        return [None if top is None else number[top] for top in tops], known

    def _passed_over(self, base: str) -> list[str]:
        others = Counter(
            "hidden" if is_hidden(f.name) else PurePosixPath(f.name).suffix.lower() or "no suffix"
            for f in self.files
            if f.name.startswith(base) and not is_image(f.name) and f not in self.labels.values()
        )
        if not others:
            return []
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in others.most_common(6))
        more = f" and {len(others) - 6} more kinds" if len(others) > 6 else ""
        return [f"{others.total():,} files are no images and are passed over ({kinds}{more})"]

    def _others(self) -> str:
        notes = self._passed_over("")
        return f" {notes[0][0].upper()}{notes[0][1:]}." if notes else ""


def _opener(file: File) -> Callable[[], Image.Image]:
    return lambda: open_image(BytesIO(file.read()))


def _labels_of(names: list[str], text: str, where: str) -> tuple[list[int | None], list[str]]:
    try:
        content: Any = json.loads(text)
        pairs = content["labels"]
        known = None if pairs is None else {name: label for name, label in pairs}  # noqa: C416
    except (ValueError, KeyError, TypeError, RecursionError) as error:
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
        if label >= MOST_CLASSES:
            raise OvertoneError(
                f"{where}: the label of {name} is {label}, and {MOST_CLASSES:,} classes are the"
                " most."
            )
    labels = [known[name] for name in names]
    return labels, [str(i) for i in range(max(labels) + 1)]
