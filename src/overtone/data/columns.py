"""Which columns of a table hold the images and the classes, whatever their types."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from overtone.data.labels import MOST_CLASSES
from overtone.data.reading import open_image
from overtone.data.tables import readable
from overtone.errors import OvertoneError, unknown

LOOKED_AT = 16
"""rows in which an image is looked for, where a column does not say that it holds them"""
LONGEST_NAME = 1000
"""letters of a class's name"""
CALLED = ("label", "class", "cls", "categor", "target")
"""What columns of classes are often called, or begin with."""


@dataclass(frozen=True)
class Classes:
    """The classes of a column, and how a cell becomes a class label."""

    names: Sequence[str]
    number: Callable[[Any], int]
    """The number of a cell's class. It raises `ValueError` for a cell that names no class."""


def image_column(name: str, rows: Any, asked: str | None) -> str:
    """The column of images: the one asked for, the first of `datasets.Image`, or the first with an
    image's bytes in it. Raises `OvertoneError` where there is none."""
    import datasets

    features = rows.features
    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    packed = [key for key, kind in features.items() if _is_packed(kind)]
    if asked is not None:
        if asked not in (*images, *packed):
            raise unknown(f"column of images in {name}", asked, images or packed)
        return asked
    if images:
        return images[0]
    if packed:
        first = list(readable(islice(rows.select_columns(packed), LOOKED_AT), name))
        for key in packed:
            if any(_opens(row.get(key)) for row in first):
                return key
    raise OvertoneError(
        f"{name} has no column of images, only {', '.join(features)}: choose another config."
    )


def _is_packed(kind: Any) -> bool:
    """Whether a column's cells may be an image's bytes: as they are, or as pandas writes them."""
    if getattr(kind, "dtype", "") in ("binary", "large_binary"):
        return True
    return isinstance(kind, dict) and "bytes" in kind


def _opens(cell: Any) -> bool:
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        return False
    try:
        open_image(io.BytesIO(content))
    except Exception:  # whatever Pillow raises for what is not an image
        return False
    return True


def label_column(name: str, features: Any, asked: str | None) -> str | None:
    """The column of classes: the one asked for, or the first of `datasets.ClassLabel`; None where
    there is none. Raises `OvertoneError` for a column that is not there."""
    import datasets

    if asked == "none":
        return None
    if asked is not None:
        if asked not in features:
            raise unknown(f"column of labels in {name}", asked, may_be_labels(features))
        if hasattr(features[asked], "decode_example"):  # which reading it would do
            raise OvertoneError(
                f"{name}: the column '{asked}' holds {type(features[asked]).__name__}s, and classes"
                " are integers or texts: name another, or add ?label=none."
            )
        return asked
    fitting = (key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel))
    return next(fitting, None)


def may_be_labels(features: Any) -> list[str]:
    """The columns that classes can be read from, those called like classes first."""
    import datasets

    fitting = [
        key
        for key, kind in features.items()
        if isinstance(kind, datasets.ClassLabel)
        or getattr(kind, "dtype", "").startswith(("int", "uint", "bool", "string", "large_string"))
    ]
    return sorted(fitting, key=lambda key: not key.casefold().startswith(CALLED))


def has_names(features: Any, column: str) -> bool:
    """Whether the column itself says what its classes are called."""
    import datasets

    return isinstance(features[column], datasets.ClassLabel)


def classes_of(name: str, column: str, tables: Iterable[Any], limit: int | None) -> Classes:
    """The classes in a column of the splits `tables`, numbered alike in all of them; in the first
    rows of each, where there is a limit.

    Of `datasets.ClassLabel` they are its own; integers are class labels; texts and bytes are
    names, numbered in their order. Raises `OvertoneError` for cells that are nothing of these.
    """
    tables = list(tables)
    features = tables[0].rows.features
    if has_names(features, column):
        return Classes(tuple(features[column].names), _whole)
    found: set[int | str] = set()
    for table in tables:
        for cell in readable(islice(table.column(column), limit), name):
            if cell is not None:
                found.add(_cell(name, column, cell))
            if len(found) > MOST_CLASSES:
                raise OvertoneError(
                    f"{name}: the column '{column}' has more than {MOST_CLASSES:,} values, which"
                    " are too many for classes: name another, or add ?label=none."
                )
    numbers = [value for value in found if isinstance(value, int)]
    names = tuple(sorted(value for value in found if isinstance(value, str)))
    if numbers and names:
        raise OvertoneError(
            f"{name}: the column '{column}' has numbers and texts: name another, or add"
            " ?label=none."
        )
    if names:
        number = {text: at for at, text in enumerate(names)}
        return Classes(names, lambda cell: number[_text(cell)])
    highest = max(numbers, default=-1)
    if highest >= MOST_CLASSES:
        raise OvertoneError(
            f"{name}: the column '{column}' goes up to {highest}, and {MOST_CLASSES:,} classes are"
            " the most: name another, or add ?label=none."
        )
    return Classes(tuple(map(str, range(highest + 1))), _whole)


def _whole(cell: Any) -> int:
    if cell is None or int(cell) < 0:
        raise ValueError(f"label {cell}")
    return int(cell)


def _text(cell: Any) -> str:
    return cell.decode(errors="backslashreplace") if isinstance(cell, bytes) else cell


def _cell(name: str, column: str, cell: Any) -> int | str:
    """A cell as what it says of its class: a number or a name."""
    if isinstance(cell, int):
        return int(cell)
    if isinstance(cell, str | bytes) and len(cell) > LONGEST_NAME:
        raise OvertoneError(
            f"{name}: the column '{column}' has a text of {len(cell):,} letters, which is not a"
            " name of a class: name another, or add ?label=none."
        )
    if isinstance(cell, str | bytes):
        return _text(cell)
    raise OvertoneError(
        f"{name}: the column '{column}' holds {type(cell).__name__}s, and classes are integers or"
        " texts: name another, or add ?label=none."
    )
