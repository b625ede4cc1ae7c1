"""Splits of a data set in the formats of Hugging Face, on this machine or on the Hub, opened."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from overtone import storage
from overtone.data.files import contents_key, file_key
from overtone.data.layout import TABLES, Layout, is_hidden, passed_over
from overtone.data.names import path_of
from overtone.data.splits import split_of, splits_in, unused
from overtone.errors import OvertoneError, unknown
from overtone.regular import read_regular

OPTIONS = ("config", "image", "label", "limit", "revision", "split", "streaming", "test_split")
ROWS = (*TABLES, ".csv", ".tsv", ".json", ".jsonl", ".ndjson")
"""suffixes of tables"""
METADATA = "metadata"
"""what tables are called that tell of the images beside them"""
NO_ROWS = ("dataset", "dataset_info", "dataset_infos", METADATA, "config")
"""what files with such suffixes are called that hold something else"""
KINDS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
"""what `datasets` calls the readers of single files"""


@dataclass(frozen=True)
class HubName:
    """What stands behind `hf:`, taken apart."""

    path: str
    config: str | None = None
    image: str | None = None
    label: str | None = None
    limit: int | None = None
    revision: str | None = None
    split: str | None = None
    test_split: str | None = None
    streaming: bool = False

    @classmethod
    def parse(cls, name: str) -> HubName:
        path, query = cut(name.removeprefix("hf:"))
        options: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
        for key in options:
            if key not in OPTIONS:
                raise unknown(f"option of {name}", key, OPTIONS)
        if "limit" in options:
            digits = options["limit"]
            if not digits.isdecimal() or len(digits) > 18 or int(digits) < 1:
                raise OvertoneError(f"{name}: limit is a number of images.")
            options["limit"] = int(digits)
        if "streaming" in options:
            if options["streaming"] not in ("true", "false"):
                raise OvertoneError(f"{name}: streaming is true or false.")
            options["streaming"] = options["streaming"] == "true"
        if not path:
            raise OvertoneError(f"{name} names no data set: hf:OWNER/NAME or hf:/path.")
        return cls(path, **options)

    @property
    def local(self) -> Path:
        """The path as one of this machine, whether or not it is."""
        return path_of(self.path)


def cut(name: str) -> tuple[str, str]:
    """The path and the options of a name, which are parted by ?; a file may be called so, too."""
    marks = [at for at, letter in enumerate(name) if letter == "?"]
    for at in [len(name), *reversed(marks[1:])]:
        if os.path.exists(path_of(name[:at])):
            return name[:at], name[at + 1 :]
    path, _, query = name.partition("?")
    return path, query


class Table(NamedTuple):
    """The rows of a split, a key that identifies them, and their number where it is known."""

    rows: Any
    key: str
    length: int | None
    files: tuple[str, ...] = ()
    """The parquet files on this machine, if the table consists of such."""

    def column(self, name: str) -> Iterator[Any]:
        """The cells of a column. Of parquet nothing else is read, as `datasets` would."""
        if not self.files:
            yield from (row[name] for row in self.rows.select_columns([name]))
            return
        import pyarrow.parquet

        for file in self.files:
            with pyarrow.parquet.ParquetFile(file) as opened:
                for batch in opened.iter_batches(columns=[name]):
                    yield from batch.column(0).to_pylist()


class Tables:
    """The splits of a data set. Raises `OvertoneError` for what can't be opened.

    What lies on this machine is read as it is, never from a copy of `datasets`, which a file that
    was changed without its time would not be told from.
    """

    def __init__(self, asked: HubName, name: str, layout: Layout | None) -> None:
        import datasets

        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)  # errors say it
        self.asked, self.name = asked, name
        self.key = None
        """of what is on this machine"""
        self.layout = layout
        self.saved: dict[str, Any] | None = None
        """what `save_to_disk` wrote"""
        self.builder: Any = None
        with explained(name):
            if layout is not None:
                self.key = contents_key(layout)
            elif os.path.isfile(asked.local):
                self.key = file_key(asked.local)
            if layout is not None and _is_saved(asked.local):
                saved = datasets.load_from_disk(str(asked.local))
                alone = not isinstance(saved, datasets.DatasetDict)
                self.saved = {asked.split or "train": saved} if alone else saved
                return
            self.builder = _builder(asked, layout)

    def names(self, split: str) -> list[str]:
        """The data set's own names for 'train' or 'test', the one to take first; none where it has
        no test split."""
        known = self._known()
        chosen = self.asked.test_split if split == "test" else self.asked.split
        if chosen is not None:
            if chosen not in known:
                raise unknown(f"split of {self.name}", chosen, known)
            return [chosen]
        splits = splits_in(known)
        if split in splits or split == "test":
            return splits.get(split, [])
        if splits and len(splits["test"]) == len(known):
            raise OvertoneError(
                f"{self.name} has held-out splits alone ({', '.join(known)}), which are not trained"
                f" on: ?split={known[0]} takes one all the same."
            )
        if len(known) == 1:
            return known
        raise OvertoneError(
            f"{self.name} has no training split, only {', '.join(known)}: ?split={known[0]} takes"
            " one."
        )

    def open(self, own: str) -> Table:
        """A split by its own name."""
        with explained(self.name):
            key = f"{self.key or self.builder.cache_dir} {self.asked.config} {own}"
            if self.saved is not None:
                return Table(self.saved[own], key, len(self.saved[own]))
            if self.key is not None:
                rows, files = self.builder.as_streaming_dataset(own), self._parquet(own)
                return Table(rows, key, _count(files) if files else None, files)
            if self.asked.streaming:
                return Table(self.builder.as_streaming_dataset(own), key, None)
            self.builder.download_and_prepare()
            rows = self.builder.as_dataset(own)
            return Table(rows, key, len(rows))

    def notes(self) -> Iterator[str]:
        """Sentences on splits and files that are not used."""
        known = self._known()
        for taken in splits_in(known).values():
            yield from unused("split", taken)
        for name in known:
            if split_of(name) is None and len(known) > 1 and self.asked.split is None:
                yield f"the split '{name}' is not used: ?split={name} takes it"
        if self.layout is not None and self.saved is None and not _has_card(self.asked.local):
            tables, data = _data_in(self.layout)
            names = (f.name for f in self.layout.files if PurePosixPath(f.name).stem != METADATA)
            others = sorted(set(names) - set(data))
            yield from passed_over(others, *(("a table", "tables") if tables else ()))

    def _known(self) -> list[str]:
        if self.saved is not None:
            return list(map(str, self.saved))
        known = self.builder.info.splits or self.builder.config.data_files
        return list(map(str, known or [self.asked.split or "train"]))

    def _parquet(self, own: str) -> tuple[str, ...]:
        """The files of a split, if all are parquet."""
        files = tuple(map(str, (self.builder.config.data_files or {}).get(own, ())))
        return files if all(file.endswith(".parquet") for file in files) else ()


def _count(files: Iterable[str]) -> int:
    """The number of rows that files of parquet say they have."""
    import pyarrow.parquet

    return sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Whatever goes wrong within becomes one line: a lost network, a damaged file."""
    try:
        yield
    except OvertoneError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise OvertoneError(
            f"{name} can't be opened ({lines[0]}): check its name, or download it again."
        ) from error


def readable(rows: Iterable[Any], name: str) -> Iterator[Any]:
    """The rows, and one line for whatever ends them early."""
    with explained(name):
        yield from rows


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def _builder(asked: HubName, layout: Layout | None) -> Any:
    import datasets

    local, path = asked.local, os.path.abspath(asked.local)
    # Another program's copy of the same files is never taken for them.
    own = {"cache_dir": str(storage.cache_directory() / "datasets")}
    if layout is not None and not _has_card(local):
        files = _files_of_splits(layout)
        return datasets.load_dataset_builder(path, asked.config, data_files=files, **own)
    if layout is not None:
        return datasets.load_dataset_builder(path, asked.config, **own)
    kind = KINDS.get(local.suffix.lower())
    if os.path.isfile(local):
        if kind is None:
            raise OvertoneError(
                f"hf:{local} is neither .parquet nor .arrow, nor webdataset's .tar: name images in"
                " a zip or a folder without hf:."
            )
        files = {asked.split or "train": [glob.escape(os.path.abspath(local))]}
        return datasets.load_dataset_builder(kind, data_files=files, **own)
    if kind is not None or os.path.exists(local):
        reason = "is neither a file nor a folder" if os.path.exists(local) else "does not exist"
        raise OvertoneError(f"{local} {reason}: name a file, a folder or OWNER/NAME of the Hub.")
    return datasets.load_dataset_builder(asked.path, asked.config, revision=asked.revision)


def _has_card(folder: Path) -> bool:
    """Whether a folder says by itself which files belong to which split and config."""
    if (folder / ".huggingface.yaml").exists():
        return True
    try:
        text = read_regular(folder / "README.md").decode(errors="replace")
    except OSError:
        return False
    front = text.partition("---")[2].partition("\n---")[0]
    return bool(re.search(r"^(configs|dataset_info):", front, re.MULTILINE))


def _files_of_splits(layout: Layout) -> dict[str, list[str]]:
    """The files of each split, as patterns: by the folders that they are in, if each is called like
    a split, or by the names of tables, if some are; else all are for training."""
    root = glob.escape(os.path.abspath(layout.where))
    tables, names = _data_in(layout)
    while names and len({name.partition("/")[0] for name in names}) == 1 and "/" in names[0]:
        top, _, _ = names[0].partition("/")
        if split_of(top) is not None:
            break
        names, root = [name.partition("/")[2] for name in names], f"{root}/{glob.escape(top)}"
    tops = sorted({name.rpartition("/")[0].partition("/")[0] for name in names})
    if tops and all(map(split_of, tops)):
        return {re.sub(r"\W", "_", top): [f"{root}/{glob.escape(top)}/**"] for top in tops}
    found: dict[str, list[str]] = {}
    for name in names if tables else ():
        # As shards are called: train-00000-of-00001.parquet, train_3.tar
        stem = re.sub(r"[-_.]\d+(-of-\d+)?$", "", PurePosixPath(name).stem)
        found.setdefault(re.sub(r"\W", "_", stem), []).append(f"{root}/{glob.escape(name)}")
    return found if any(map(split_of, found)) else {"train": [f"{root}/**"]}


def _data_in(layout: Layout) -> tuple[bool, list[str]]:
    """Whether the data in a folder are tables, and not images, and the names of their files."""
    images = [f.name for f in layout.images]
    tables = [f.name for f in layout.files if _suffix(f.name) in ROWS and not is_hidden(f.name)]
    tables = [name for name in tables if PurePosixPath(name).stem not in NO_ROWS]
    return (True, tables) if len(tables) >= len(images) else (False, images)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def is_pictures(layout: Layout) -> bool:
    """Whether a folder holds images in folders, or with labels, and no table that tells of them: it
    is then read as it is without `hf:`."""
    tables, names = _data_in(layout)
    if tables or _has_card(Path(layout.where)) or _is_saved(Path(layout.where)):
        return False
    if any(PurePosixPath(f.name).stem == METADATA for f in layout.files):
        return False
    return bool(layout.labels) or any("/" in name for name in names)
