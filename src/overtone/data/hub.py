"""Data sets of the Hugging Face Hub, or in its formats on disk, through `datasets`.

    hf:uoft-cs/cifar10                          a data set of the Hub
    hf:ILSVRC/imagenet-1k?streaming=true        read while it downloads; only the pixels are kept
    hf:somebody/pictures?config=small&image=photo&label=kind&limit=10000
    hf:/data/cats.parquet, hf:/data/folder      parquet or arrow files, or save_to_disk's folder

The column of images is the first that has images in it, that of classes the first of class
labels, if `image` and `label` name no others, which may be of any type (`overtone.data.columns`);
`label=none` asks for no classes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from PIL import Image

from overtone.data.columns import (
    Classes,
    classes_of,
    has_names,
    image_column,
    label_column,
    may_be_labels,
)
from overtone.data.files import contents_key
from overtone.data.layout import HELD_OUT, TRAINING, split_of
from overtone.data.reading import Item, Source, open_image
from overtone.errors import OvertoneError, unknown

OPTIONS = ("config", "image", "label", "limit", "revision", "split", "streaming", "test_split")


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
        path, _, query = name.removeprefix("hf:").partition("?")
        options: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
        for key in options:
            if key not in OPTIONS:
                raise unknown(f"option of {name}", key, OPTIONS)
        if "limit" in options:
            if not options["limit"].isdecimal() or int(options["limit"]) < 1:
                raise OvertoneError(f"{name}: limit is a number of images.")
            options["limit"] = int(options["limit"])
        if "streaming" in options:
            if options["streaming"] not in ("true", "false"):
                raise OvertoneError(f"{name}: streaming is true or false.")
            options["streaming"] = options["streaming"] == "true"
        if not path:
            raise OvertoneError(f"{name} names no data set: hf:OWNER/NAME or hf:/path.")
        return cls(path, **options)


def hub_source(name: str, split: str = "train", asked: HubName | None = None) -> Source | None:
    """The images of one split. None for a data set without a test split, if that is asked for.

    The test split is "test", or "validation" where there is none or where it has no labels.
    """
    from datasets import Image as ImageFeature

    asked = asked or HubName.parse(name)
    table = _open(asked, name, split)
    if table is None:
        return None
    features = table.rows.features
    if features is None:
        raise OvertoneError(f"{name} does not say what its columns hold; it can't be streamed.")
    image = image_column(name, table.rows, asked.image)
    label = label_column(name, features, asked.label)
    if split == "test" and label is not None and asked.test_split is None:
        first = next(iter(table.rows.select_columns([label])), {label: 0})[label]
        if first is None or (isinstance(first, int) and first < 0):  # without labels, as ImageNet's
            labelled = replace(asked, test_split="validation")
            return hub_source(name, split, labelled) if _has_validation(asked, name) else None
    classes = Classes((), int) if label is None else _classes(asked, name, label, split, table)
    count = table.length
    if asked.limit is not None:
        count = asked.limit if count is None else min(count, asked.limit)
    root = str(Path(asked.path).expanduser())

    def items() -> Iterator[Item]:
        raw = table.rows.cast_column(image, ImageFeature(decode=False))
        for number, row in enumerate(_readable(islice(raw, asked.limit), name)):
            try:
                value = None if label is None else classes.number(row[label])
            except (ValueError, TypeError, KeyError):
                raise OvertoneError(
                    f"{name} has no classes in its {split} split (label {row[label]} in row"
                    f" {number}): add ?label=none."
                ) from None
            yield Item(f"{name} row {number}", _reader(row[image], root), value)

    key = f"{table.key} {image} {label} {asked.limit}"
    return Source(name, key, items, count, classes.names, _mentioned(asked, features, image, label))


def _classes(asked: HubName, name: str, label: str, split: str, table: Table) -> Classes:
    """The classes of a column, numbered alike in the training and the test split."""
    other = None if has_names(table.rows.features, label) else _other(asked, name, split)
    tables = (table.rows,) if other is None else (table.rows, other.rows)
    return classes_of(name, label, tables)


def _other(asked: HubName, name: str, split: str) -> Table | None:
    try:
        return _open(asked, name, "train" if split == "test" else "test")
    except OvertoneError:
        return None


def _mentioned(asked: HubName, features: Any, image: str, label: str | None) -> list[str]:
    """What else could be the classes, and the option that takes it."""
    others = [key for key in may_be_labels(features) if key not in (image, label)]
    if asked.label is not None or not others:
        return []
    read = "no classes are read" if label is None else f"the classes are those of '{label}'"
    return [f"{read}: ?label={others[0]} takes another column ({', '.join(others[:6])})"]


def _readable(rows: Iterable[Any], name: str) -> Iterator[Any]:
    """The rows, and one line for whatever ends them early: a lost network, a damaged file."""
    try:
        yield from rows
    except OvertoneError:
        raise
    except Exception as error:
        raise OvertoneError(f"{name} can't be read further: {_first_line(error)}") from error


def _reader(value: Any, root: str) -> Callable[[], Image.Image]:
    """How the image of a row is opened: from its bytes, or from a file of the data set."""

    def read() -> Image.Image:
        if value is None:
            raise ValueError("the row is empty")
        if value.get("bytes") is not None:
            return open_image(BytesIO(value["bytes"]))
        path = str(value.get("path"))
        if not _inside(path, root):
            raise ValueError(f"it points to {path}, outside the data set")
        if "://" not in path:
            return open_image(BytesIO(Path(path).read_bytes()))
        from datasets.utils.file_utils import xopen

        with xopen(path, "rb") as file:
            return open_image(BytesIO(file.read()))

    return read


def _inside(path: str, root: str) -> bool:
    """Whether a file lies in the data set's own folder, in the download cache, or on the Hub,
    perhaps in an archive there ("zip://a.png::hf://datasets/...")."""
    import datasets.config

    *archives, path = path.split("::")
    if any(not hop.startswith(("zip://", "tar://", "gzip://")) for hop in archives):
        return False
    if path.startswith("hf://"):
        return True
    if "://" in path:
        return False

    homes = [Path(root), Path(datasets.config.HF_CACHE_HOME)]
    return any(Path(path).resolve().is_relative_to(home.resolve()) for home in homes)


class Table(NamedTuple):
    """The rows of a split, a key that identifies them, and their number where it is known."""

    rows: Any
    key: str
    length: int | None


def _open(asked: HubName, name: str, split: str) -> Table | None:
    """A split; None for a data set without it, if that is the test split.

    What lies on this machine is read as it is, never from a copy of `datasets`, which a file that
    was changed without its time would not be told from.
    """
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    local = Path(asked.path).expanduser()
    own = contents_key(local) if local.exists() else None
    try:
        if _is_saved(local):
            saved = datasets.load_from_disk(str(local))
            if not isinstance(saved, datasets.DatasetDict):
                saved = datasets.DatasetDict({asked.split or "train": saved})
            chosen = _split(asked, name, list(saved), split)
            if chosen is None:
                return None
            return Table(saved[chosen], f"{own} {chosen}", len(saved[chosen]))
        builder = _builder(asked, local)
        chosen = _split(asked, name, _splits(builder, asked), split)
        if chosen is None:
            return None
        if own is not None:
            return Table(
                builder.as_streaming_dataset(chosen), f"{own} {chosen}", _rows_of(builder, chosen)
            )
        key = f"{builder.cache_dir} {chosen}"
        if asked.streaming:
            return Table(builder.as_streaming_dataset(chosen), key, None)
        builder.download_and_prepare()
        rows = builder.as_dataset(chosen)
        return Table(rows, key, len(rows))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise OvertoneError(f"{name} can't be opened: {_first_line(error)}") from None


def _rows_of(builder: Any, split: str) -> int | None:
    """The number of rows, where files of parquet say it."""
    import pyarrow.parquet

    files = [str(file) for file in (builder.config.data_files or {}).get(split, ())]
    if not files or not all(file.endswith(".parquet") for file in files):
        return None
    return sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _has_validation(asked: HubName, name: str) -> bool:
    try:
        return _open(replace(asked, test_split="validation"), name, "test") is not None
    except OvertoneError:
        return False


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def _builder(asked: HubName, local: Path) -> Any:
    import datasets

    if local.suffix in (".parquet", ".arrow") and not local.exists():
        raise OvertoneError(f"{local} does not exist.")
    if local.is_file():
        kinds = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
        if local.suffix not in kinds:
            raise OvertoneError(
                f"hf:{local} is neither .parquet nor .arrow, nor webdataset's .tar."
            )
        files = {asked.split or "train": str(local)}
        return datasets.load_dataset_builder(kinds[local.suffix], data_files=files)
    path = str(local) if local.exists() else asked.path
    return datasets.load_dataset_builder(path, asked.config, revision=asked.revision)


def _splits(builder: Any, asked: HubName) -> list[str]:
    if builder.info.splits:
        return list(builder.info.splits)
    if builder.config.data_files:
        return list(builder.config.data_files)
    return [asked.split or "train"]


def _split(asked: HubName, name: str, known: Iterable[str], split: str) -> str | None:
    """The data set's own name for 'train' or 'test'; None where it has no test split."""
    known = list(map(str, known))
    chosen = asked.test_split if split == "test" else asked.split
    if chosen is not None:
        if chosen not in known:
            raise unknown(f"split of {name}", chosen, known)
        return chosen
    words = {split_of(own): own for own in reversed(known)}
    fitting = [words[word] for word in (HELD_OUT if split == "test" else TRAINING) if word in words]
    if fitting or split == "test":
        return fitting[0] if fitting else None
    if all(split_of(own) for own in known) and known:
        raise OvertoneError(
            f"{name} has held-out splits alone ({', '.join(known)}), which are not trained on:"
            f" ?split={known[0]} takes one all the same."
        )
    if len(known) == 1:
        return known[0]
    raise unknown(f"split of {name}", "train", known)
