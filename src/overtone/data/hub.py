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

import contextlib
import os
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from overtone.data.columns import (
    Classes,
    classes_of,
    has_names,
    image_column,
    label_column,
    may_be_labels,
)
from overtone.data.files import LARGEST_FILE, folder_layout, read_file
from overtone.data.layout import Layout, listed
from overtone.data.reading import Item, Source, open_image
from overtone.data.tables import HubName, Table, Tables, is_pictures, readable
from overtone.errors import OvertoneError, unknown


def hub_source(name: str, split: str = "train") -> Source | None:
    """The images of one split. None for a data set without a test split, if that is asked for.

    The test split is the first of those held out that has labels, if the training split has them.
    """
    asked = HubName.parse(name)
    layout = folder_layout(asked.local) if os.path.isdir(asked.local) else None
    if layout is not None and is_pictures(layout):
        return _pictures(asked, name, layout, split)
    tables = Tables(asked, name, layout)
    table = _table(tables, split)
    return None if table is None else _source(tables, table, split)


def _pictures(asked: HubName, name: str, layout: Layout, split: str) -> Source | None:
    """The images of a folder that is read as it is without `hf:`."""
    for option in ("config", "image", "revision", "split", "test_split"):
        if getattr(asked, option) is not None:
            raise OvertoneError(
                f"{name}: '{option}' is for tables, and this is a folder of images: leave it out,"
                " or name one of its sub-folders."
            )
    if asked.label not in (None, "none"):
        raise unknown(f"column of labels in {name}", asked.label or "", ["none"])
    if split == "test" and not layout.has_split("test"):
        return None
    source = layout.source(split)
    items = list(islice(source.items(), asked.limit))
    if asked.label == "none":
        items = [item._replace(label=None) for item in items]
    names = () if asked.label == "none" else source.class_names
    key = f"{source.key} {asked.label} {asked.limit}"
    return Source(source.name, key, lambda: items, len(items), names, source.notes)


def _table(tables: Tables, split: str) -> Table | None:
    """The split that is used as 'train' or 'test', if there is one: of those held out the first
    that has labels, as ImageNet's 'test' has none."""
    for own in tables.names(split):
        table = tables.open(own)
        if table.rows.features is None:
            raise OvertoneError(
                f"{tables.name} does not say what its columns hold: write it as parquet, say."
            )
        label = _label(tables, table)
        if split == "train" or tables.asked.test_split or label is None:
            return table
        row: dict[str, Any] = next(readable(table.rows.select_columns([label]), tables.name), {})
        first = row.get(label)
        if first is not None and not (isinstance(first, int) and first < 0):
            return table
    return None


def _label(tables: Tables, table: Table) -> str | None:
    return label_column(tables.name, table.rows.features, tables.asked.label)


def _source(tables: Tables, table: Table, split: str) -> Source:
    """The images in the rows of a table, with their classes."""
    asked, name = tables.asked, tables.name
    label = _label(tables, table)
    image = image_column(name, table.rows, asked.image)
    classes = Classes((), int) if label is None else _classes(tables, table, label, split)
    count = table.length
    if asked.limit is not None:
        count = asked.limit if count is None else min(count, asked.limit)

    def items() -> Iterator[Item]:
        from datasets import Image as ImageFeature

        # No other column: `datasets` decodes what it takes for images with all that Pillow knows.
        rows = table.rows.select_columns([image] if label is None else [image, label])
        raw = rows.cast_column(image, ImageFeature(decode=False))
        for number, row in enumerate(readable(islice(raw, asked.limit), name)):
            try:
                value = None if label is None else classes.number(row[label])
            except (ValueError, TypeError, KeyError):
                raise OvertoneError(
                    f"{name} has no classes in its {split} split (label {row[label]} in row"
                    f" {number}): add ?label=none."
                ) from None
            yield Item(f"{name} row {number}", _reader(row[image], str(asked.local)), value)

    key = "\n".join((table.key, f"{image} {label} {asked.limit}", *classes.names))
    notes = [*_mentioned(tables, table, image, label), *tables.notes()]
    return Source(name, key, items, count, classes.names, notes)


def _classes(tables: Tables, table: Table, label: str, split: str) -> Classes:
    """The classes of a column, numbered alike in the training and the test split."""
    read = [table]
    if not has_names(table.rows.features, label):
        with contextlib.suppress(OvertoneError):  # there need be no other split
            other = _table(tables, "train" if split == "test" else "test")
            read += [] if other is None else [other]
    return classes_of(tables.name, label, read, tables.asked.limit)


def _mentioned(tables: Tables, table: Table, image: str, label: str | None) -> list[str]:
    """What else could be the classes, and the option that takes it."""
    others = [key for key in may_be_labels(table.rows.features) if key not in (image, label)]
    if tables.asked.label is not None or not others:
        return []
    read = "no classes are read" if label is None else f"the classes are those of '{label}'"
    return [f"{read}: ?label={others[0]} takes another column ({listed(others)})"]


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
            return open_image(BytesIO(read_file(path)))
        from datasets.utils.file_utils import xopen

        with xopen(path, "rb") as file:
            return open_image(BytesIO(file.read(LARGEST_FILE)))

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

    homes = [root, str(datasets.config.HF_CACHE_HOME)]
    # A link in the folder may lead out of it; a name in a table may not.
    return any(
        Path(own(path)).is_relative_to(own(home))
        for home in homes
        for own in (os.path.abspath, os.path.realpath)
    )
