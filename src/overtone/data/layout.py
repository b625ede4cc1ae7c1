"""How files are read as images with classes, by one rule for folders and archives.

    train/cat/0.png   test/cat/1.png     a training and a held-out split, if every folder that holds
                                         images is called like a split; below each what follows
    cat/0.png         dog/1.png          a folder for each class
    00000/img0.png    dataset.json       the labels of EDM's and StyleGAN's tools
    0.png             1.png              images without classes

Each may lie below a single folder, as in most archives. Classes are numbered in the order of their
folders, those without images too. Whatever is not read is counted and said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import PurePosixPath
from typing import NamedTuple

from PIL import Image

from overtone.data.labels import LABELS_FILE, Labels, check_size
from overtone.data.names import SUFFIXES, text_of
from overtone.data.reading import Item, Source, open_image
from overtone.data.splits import split_of, splits_in, unused
from overtone.errors import OvertoneError

HIDDEN = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""folders that systems make by themselves, beside those whose names begin with a dot"""
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
TABLES = (".parquet", ".arrow", ".tar")
"""what is read after `hf:`"""
DEEPEST = 64
"""folders within each other"""
SHOWN = 5
"""names in a sentence"""


class File(NamedTuple):
    """A file of a folder or an archive."""

    name: str
    """The name below the root, its parts separated by /."""
    read: Callable[[], bytes]
    stamp: str
    """A text that changes whenever the file's contents may have changed."""
    size: int = 0
    """The size in bytes."""


def is_image(name: str) -> bool:
    """Whether a file is called like an image, and no part of its path like a hidden file."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it is in, is one that systems and editors keep hidden, or
    lies outside the root."""
    return any(part.startswith(".") or part in HIDDEN for part in name.split("/"))


def listed(names: Sequence[str]) -> str:
    """The first of some names, for a sentence."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


@dataclass
class Layout:
    """The files and folders below a root, and what was made of them."""

    where: str
    files: Sequence[File]
    folders: set[str]
    """Every folder below the root, those without files included."""
    identity: str
    """What tells the root from another one of the same name."""
    notes: Sequence[str] = ()
    """Sentences on what could not be listed."""

    def __post_init__(self) -> None:
        self.images = sorted((f for f in self.files if is_image(f.name)), key=lambda f: f.name)
        self.labels = {
            f.name.removesuffix(LABELS_FILE): f
            for f in self.files
            if f"/{f.name}".endswith(f"/{LABELS_FILE}") and not is_hidden(f.name)
        }
        self.seen = {folder for folder in self.folders if folder and not is_hidden(folder)}
        self.top = self._descended("")
        """the folder of the classes or splits"""

    def has_split(self, split: str) -> bool:
        """Whether there is such a split; without split folders all is 'train'."""
        return split in self.splits if self.splits else split == "train"

    def source(self, split: str) -> Source:
        """The images of a split, 'train' or 'test'. Raises `OvertoneError` where there are none."""
        self._check(split)
        bases = {
            kind: self._descended(f"{self.top}{folders[0]}/", kind)
            for kind, folders in self.splits.items()
        } or {"train": self.top}
        base = bases[split]
        images = [f for f in self.images if f.name.startswith(base)]
        names = self._below(base)
        where = f"{self.where}/{base}".rstrip("/")
        labels = {kind: self._labels_above(own) for kind, own in bases.items()}
        read = labels[split]
        if read is None:
            numbers, classes = self._sub_folders(names, base, where)
        else:
            numbers, classes = self._labelled(split, bases, labels)
        items = [
            Item(f"{where}/{name}", _opener(file), number)
            for name, file, number in zip(names, images, numbers, strict=True)
        ]
        stamps = [f"{name} {file.stamp}" for name, file in zip(names, images, strict=True)]
        text = "" if read is None else read.text
        key = "\n".join([self.identity, base, *stamps, *classes, text])
        by_folder = classes if read is None else []
        notes = [
            *self.notes,
            *_notes_on_folders(names, by_folder),
            *self._notes_on_labels([found for found in labels.values() if found is not None]),
            *self._notes_on_splits(),
            *self._notes_beside(base, by_folder=bool(by_folder)),
        ]
        return Source(where, key, lambda: items, len(items), list(map(text_of, classes)), notes)

    # Where to read.

    def _below(self, base: str) -> list[str]:
        """The names of the images in a folder, below it."""
        return [f.name[len(base) :] for f in self.images if f.name.startswith(base)]

    def _folders_in(self, base: str) -> set[str]:
        """The names of the folders in a folder."""
        below = (folder[len(base) :] for folder in self.seen if folder.startswith(base))
        return {name for name in below if name and "/" not in name}

    def _descended(self, base: str, split: str | None = None) -> str:
        """`base`, or the folder below it in which all is, classes or labels too; `split` is what
        `base` is in."""
        while base not in self.labels:
            names = self._below(base)
            tops = {name.partition("/")[0] for name in names}
            if len(tops) != 1 or not all("/" in name for name in names):
                return base
            (top,) = tops
            deeper = f"{base}{top}/"
            whole = all(name.count("/") > 1 for name in names)
            if not (deeper in self.labels or whole) or list(splits_in(tops)) not in ([], [split]):
                return base
            seen = (f.name[len(base) :] for f in self.files if f.name.startswith(base))
            if self._folders_in(base) - {n.partition("/")[0] for n in seen if not is_hidden(n)}:
                return base  # an empty folder is a class without images beside the other
            base = deeper
        return base

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        """The folders of images by split; empty if one of them is no split's."""
        tops = {name.partition("/")[0] for name in self._below(self.top) if "/" in name}
        splits = splits_in(sorted(tops))
        return splits if sum(map(len, splits.values())) == len(tops) else {}

    def _check(self, split: str) -> None:
        """Raises `OvertoneError` for a split that is not there, or is there twice."""
        if not self.images:
            raise OvertoneError(
                f"{self.where} holds no images (looked for {', '.join(sorted(SUFFIXES))}),"
                f" sub-folders too.{self._instead()}"
            )
        if self.has_split(split):
            training = self.splits.get("train", ())
            if len(training) > 1:
                raise OvertoneError(
                    f"{self.where} has two training splits, '{training[0]}' and '{training[1]}':"
                    " rename one, or join them."
                )
            return
        there = ", ".join(f"'{name}'" for names in self.splits.values() for name in names)
        if split == "train":
            raise OvertoneError(
                f"{self.where} holds a held-out split alone ({there}), which is not trained on:"
                " rename that folder 'train', or give it, unpacked, as the data itself."
            )
        raise OvertoneError(
            f"{self.where} has no {split} split{f', only {there}' if there else ''}: give it"
            " sub-folders 'train' and 'test'."
        )

    # What is there.

    def _labels_above(self, base: str) -> Labels | None:
        """The file of labels that is nearest above the images in `base`, or among them."""
        parts = base.split("/")[:-1]
        for depth in range(len(parts), -1, -1):
            above = "".join(f"{part}/" for part in parts[:depth])
            if above in self.labels:
                return self._read(above)
        return None

    def _read(self, above: str) -> Labels:
        file = self.labels[above]
        place = f"{self.where}/{file.name}"
        check_size(place, file.size, len(self.images))
        try:
            content = file.read()
        except Exception as error:  # unreadable, encrypted, damaged
            raise OvertoneError(f"{place} can't be read ({error}): write it again.") from None
        return Labels(content, place, above)

    def _labelled(
        self, split: str, bases: dict[str, str], labels: dict[str, Labels | None]
    ) -> tuple[Sequence[int | None], list[str]]:
        """Labels by files of them, with as many classes as the labels of all splits go up to."""
        numbers = {
            kind: read.of(base + name for name in self._below(base))
            for kind, base in bases.items()
            if (read := labels[kind]) is not None
        }
        highest = max((number for own in numbers.values() for number in own or ()), default=-1)
        own = numbers[split]
        if own is None:
            return [None] * len(self._below(bases[split])), []
        return own, [str(i) for i in range(highest + 1)]

    def _sub_folders(
        self, names: list[str], base: str, where: str
    ) -> tuple[Sequence[int | None], list[str]]:
        """Labels by the first folder of each name, numbered with those that hold no image."""
        tops = [name.partition("/")[0] for name in names if "/" in name]
        if not tops:
            return [None] * len(names), []
        if len(tops) < len(names):
            stray = next(name for name in names if "/" not in name)
            raise OvertoneError(
                f"{where} has images in sub-folders (classes) and beside them ({stray}): move those"
                " into a sub-folder, or away."
            )
        classes = sorted({*tops, *self._folders_in(base)})
        if all(map(split_of, classes)):
            raise OvertoneError(
                f"{where} has no classes, but folders that are called like splits"
                f" ({listed(classes)}): rename them, or give one of them as the data itself."
            )
        number = {name: i for i, name in enumerate(classes)}
        return [number[top] for top in tops], classes

    # What is said.

    def _notes_on_labels(self, read: Sequence[Labels]) -> Iterator[str]:
        """On labels without images, and on files of labels that are not the nearest."""
        known = {f.name for f in self.images}
        used = {labels.above: labels for labels in read}
        for labels in used.values():
            yield from labels.without(known)
        away = sorted(f.name for above, f in self.labels.items() if above not in used)
        if away:
            yield f"the labels in {listed(away)} are not used"

    def _notes_on_splits(self) -> Iterator[str]:
        for folders in self.splits.values():
            yield from unused("folder", folders)
        stray = [name for name in self._below(self.top) if "/" not in name]
        if self.splits and stray:
            are = "image is" if len(stray) == 1 else "images are"
            yield f"{len(stray):,} {are} passed over beside the splits ({listed(stray)})"

    def _notes_beside(self, base: str, *, by_folder: bool) -> Iterator[str]:
        """On folders without images outside of the classes, and on all files that are no images,
        other splits' left alone."""
        parts = base.split("/")[:-1]
        levels = ["".join(f"{part}/" for part in parts[:depth]) for depth in range(len(parts) + 1)]
        bare = [
            f"{level}{name}"
            for level in levels[: -1 if by_folder else None]
            for name in sorted(
                self._folders_in(level) - {name.partition("/")[0] for name in self._below(level)}
            )
        ]
        if bare:
            hold = "folder {} holds" if len(bare) == 1 else "folders {} hold"
            yield f"the {hold.format(listed(bare))} no images"
        every = [f"{self.top}{name}/" for names in self.splits.values() for name in names]
        others = tuple(split for split in every if not base.startswith(split))
        yield from passed_over(f for f in self._no_images() if not f.startswith(others))

    def _no_images(self) -> Iterator[str]:
        labels = {f.name for f in self.labels.values()}
        return (f.name for f in self.files if not is_image(f.name) and f.name not in labels)

    def _instead(self) -> str:
        """What is there instead of images, and what can be done."""
        names = list(self._no_images())
        said = "".join(f" {note[0].upper()}{note[1:]}." for note in passed_over(names))
        suffixes = {PurePosixPath(name).suffix.lower() for name in names if not is_hidden(name)}
        if suffixes.intersection(TABLES):
            return f"{said} Tables are read by hf:{self.where}."
        if suffixes.intersection(ARCHIVES):
            return f"{said} Archives in it have to be unpacked, or named themselves."
        return f"{said} Put images there, or name another folder."


def _notes_on_folders(names: Sequence[str], classes: Sequence[str]) -> Iterator[str]:
    """On folders that are called like splits where they are none."""
    splits = [name for name in classes if split_of(name) is not None]
    if splits:
        other = next(name for name in classes if name not in splits)
        yield f"'{splits[0]}' is read as a class, as '{other}' beside it is called like no split"
    within = {name.split("/")[1] for name in names if name.count("/") > 1}
    if classes and len(splits_in(within)) > 1:
        yield (
            "folders in those of the classes are called like splits"
            f" ({listed(sorted(filter(split_of, within)))}), and the images of all are read"
        )


def passed_over(
    names: Iterable[str], one: str = "an image", several: str = "images"
) -> Iterator[str]:
    """A sentence that counts files that are not read by their suffixes, and says what they are
    not."""
    kinds = Counter(map(_kind, names))
    known = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    shown = ", ".join(f"{count:,} {kind}" for kind, count in known[:SHOWN])
    more = f" and {len(known) - SHOWN} more kinds" if len(known) > SHOWN else ""
    are = f"file is not {one} and is" if kinds.total() == 1 else f"files are not {several} and are"
    if kinds:
        yield f"{kinds.total():,} {are} passed over ({shown}{more})"


def _kind(name: str) -> str:
    if ".." in name.split("/"):
        return "with .. in the name"
    return "hidden" if is_hidden(name) else PurePosixPath(name).suffix.lower() or "without suffix"


def _opener(file: File) -> Callable[[], Image.Image]:
    return lambda: open_image(BytesIO(file.read()))
