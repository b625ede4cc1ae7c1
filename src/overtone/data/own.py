"""Data of one's own: objects as they are, and names for them.

What is taken: an object with a length, `fetch`, classes and a fingerprint, as `ImageData` has them;
a `torch.utils.data.Dataset`, or anything else with a length and items; an array of images, alone or
with its labels. A registered name stands for such an object wherever a data set is named,

    @data_set("shapes")
    def shapes(resolution, channels, split):
        return MyShapes(resolution, channels) if split == "train" else None

so that `overtone train ... --data shapes --import my_data.py` trains on it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from overtone.data.fetched import MOST_CLASSES, Fetched, listed_names, names_in
from overtone.data.images import ArrayData, ImageData
from overtone.data.reading import PLAIN, Item, Picture, check_bad, read_all, rule_of
from overtone.data.rules import Reading
from overtone.errors import OvertoneError
from overtone.registry import said
from overtone.sizes import Resolution, shown

LOOKED_AT = 256
"""The floats of so many items are looked at, to tell [0, 1] from [-1, 1]."""


def own_data(
    value: Any,
    resolution: Resolution,
    channels: int,
    name: str = "",
    *,
    reading: Reading = PLAIN,
    lowest: float | None = None,
) -> ImageData:
    """Anybody's data as `ImageData` of that size.

    Arguments:
        value: an object with `__len__`, `fetch`, `class_names` or `classes`, and `fingerprint`,
            whose images are of that size already; or an array (count, channels, height, width) or
            (count, height, width[, channels]), uint8, or floats in [0, 1] or [-1, 1]; or a tuple of
            such an array, labels (count,) and, if they have any, the names of the classes; or a
            sequence of items, each an image (Pillow's, or a tensor or an array with its channels
            first or last), a pair of an image and its label, or a dictionary with `image` and
            `label`. Arrays and sequences are read once, cropped and resized as files are, and kept
            in memory.
        name: what it is called in messages and cards; its `name` or the name of its class if left
            out.
        lowest: where the range of floats begins, 0 or -1; if left out -1 where some of 256 images,
            spread over all, have negative values, else 0. What was taken is said.

    Raises `OvertoneError` for anything else, and for images that can't be read.
    """
    own = getattr(value, "name", "")
    name = name or (own if isinstance(own, str) else "") or type(value).__name__
    if isinstance(value, ImageData):
        return _checked(value, resolution, channels, name)
    if isinstance(value, str | bytes | Mapping) or value is None:
        raise OvertoneError(
            f"{name} is not a data set: data given in Python are an object, an array or a sequence"
            " of items. Set the recipe's `data` for a name, such as builtin:digits or a folder's;"
            " pass one split of a dictionary of splits."
        )
    if hasattr(value, "fetch") or hasattr(value, "fingerprint"):
        return _checked(Fetched(value, resolution, channels, name), resolution, channels, name)
    rows, labels, class_names = _parts(value, name)
    if not len(rows):
        raise OvertoneError(f"{name} has no images.")
    if labels is not None and (not hasattr(labels, "__len__") or len(labels) != len(rows)):
        count = len(labels) if hasattr(labels, "__len__") else repr(labels)
        raise OvertoneError(f"{name} has {count} labels for {len(rows)} images.")
    lowest = lowest_of(value) if lowest is None else lowest
    reader = _Reader(rows, labels, class_names, name, lowest or 0.0)
    return reader.read(resolution, channels, reading)


def items_of(value: Any, name: str) -> tuple[Iterator[Item], int, tuple[str, ...]]:
    """The pictures of a sequence or an array, to be read one by one, their number, and the names of
    the classes. Raises `OvertoneError` for anything else."""
    rows, labels, class_names = _parts(value, name)
    reader = _Reader(rows, labels, class_names, name, lowest_of(value) or 0.0)
    return reader.items(), len(rows), class_names


def lowest_of(value: Any) -> float | None:
    """Where the range of the floats in somebody's data begins: -1 if some are negative, else 0;
    None where there are no floats."""
    if hasattr(value, "fetch") or not hasattr(value, "__len__"):
        return None
    rows, _, _ = _parts(value, "")
    found = None
    for number in range(0, len(rows), max(1, len(rows) // LOOKED_AT)):
        try:
            image, _ = _pair(rows[number])
            if _is_array(image) and "float" in str(image.dtype):
                found = 0.0
                if float(image.min()) < 0:
                    return -1.0
        except Exception:
            continue
    return found


def _parts(value: Any, name: str) -> tuple[Any, Any, tuple[str, ...]]:
    """The images or items, labels beside them, and the names of the classes."""
    labels, class_names = None, names_in(value)
    if isinstance(value, tuple) and 0 < len(value) <= 3 and _is_batch(value):
        value, labels, more = (*value, None, None)[:3]
        class_names = listed_names(more)
    if _is_array(value):
        return _rows(value, name), labels, class_names
    if hasattr(value, "__len__") and hasattr(value, "__getitem__"):
        return value, labels, class_names
    raise OvertoneError(
        f"{name} is not a data set: it needs a length and items, or `fetch` and a `fingerprint`."
    )


def _is_batch(value: tuple[Any, ...]) -> bool:
    """Whether a tuple is an array of images with labels, and not several images."""
    if not _is_array(value[0]) or value[0].ndim not in (3, 4):
        return False
    return len(value) == 1 or not _is_array(value[1]) or value[1].ndim != value[0].ndim


def _checked(data: ImageData, resolution: Resolution, channels: int, name: str) -> ImageData:
    """The data, once a first image has been looked at."""
    if (data.resolution, data.channels) != (resolution, channels):
        raise OvertoneError(
            f"{name} has images of {shown(data.resolution)} px with {data.channels} channels, and"
            f" {shown(resolution)} px with {channels} are wanted."
        )
    data.fetch([0, len(data) - 1])
    return data


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | Tensor)


def _rows(array: Any, name: str) -> np.ndarray:
    """An array of images as (count, height, width[, channels])."""
    images = _numpy(array)
    if images.ndim == 3:
        return images
    if images.ndim != 4:
        raise OvertoneError(
            f"{name} has the shape {images.shape}: images are (count, channels, height, width), or"
            " (count, height, width[, channels])."
        )
    first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
    if first == last and not isinstance(array, Tensor):
        raise OvertoneError(
            f"{name} has the shape {images.shape}, of which neither the second nor the last number"
            " alone is 1 or 3: it can't be told where the channels are."
        )
    return images.transpose(0, 2, 3, 1) if first or not last else images


@dataclass
class _Reader:
    """Items read into memory, as images from files are."""

    rows: Sequence[Any]
    labels: Any
    class_names: tuple[str, ...]
    name: str
    lowest: float
    done: Counter[str] = field(default_factory=Counter)

    def read(self, resolution: Resolution, channels: int, reading: Reading) -> ArrayData:
        rule = rule_of(reading, resolution)
        pictures, numbers, bad = list[Picture](), list[int | None](), list[str]()
        for item, result in read_all(self.items(), resolution, channels, len(self.rows), reading):
            if isinstance(result, OvertoneError):
                bad.append(str(result))
                continue
            pictures.append(result)
            numbers.append(item.label)
            self.done.update(result.done)
        check_bad(bad, len(pictures), reading, "Repair or remove them.")
        images, labels = np.stack([p.pixels for p in pictures]), self.numbered(numbers)
        digest = hashlib.sha256(images.tobytes())
        digest.update(b"" if labels is None else labels.tobytes())
        return ArrayData(
            self.name,
            images,
            labels,
            self.class_names,
            rule,
            digest.hexdigest()[:16],
            bad,
            dict(self.done),
            contents=np.array([p.contents for p in pictures], np.uint64),
        )

    def numbered(self, numbers: list[int | None]) -> np.ndarray | None:
        """The labels as an array; None where there are none."""
        known = [number for number in numbers if number is not None]
        if known and len(known) < len(numbers):
            missing = len(numbers) - len(known)
            raise OvertoneError(f"{self.name}: {missing} of {len(numbers)} images have no label.")
        if not known:
            if self.class_names:
                raise OvertoneError(
                    f"{self.name} names {len(self.class_names)} classes, and has no labels."
                )
            return None
        if max(known) >= MOST_CLASSES:
            raise OvertoneError(
                f"{self.name} has the label {max(known)}: labels are the numbers of classes, from"
                " 0 on."
            )
        if not self.class_names:
            self.class_names = tuple(str(number) for number in range(max(known) + 1))
        return np.array(known, np.int64)

    def items(self) -> Iterator[Item]:
        for number in range(len(self.rows)):
            where = f"{self.name}[{number}]"
            try:
                row = self.rows[number]
            except Exception as error:  # whatever a foreign data set raises
                yield Item(where, partial(_fail, said(error)))
                continue
            if isinstance(row, Mapping) and "image" not in row:
                raise OvertoneError(f"{where} has no 'image': {', '.join(map(str, row))}.")
            image, label = _pair(row)
            label = self.labels[number] if self.labels is not None else label
            read = partial(_picture, image, self.lowest, self.done)
            yield Item(where, read, _label(label, where))


def _fail(reason: str) -> Image.Image:
    raise ValueError(reason)


def _pair(row: Any) -> tuple[Any, Any]:
    """The image of an item and its label, where it has one."""
    if isinstance(row, Mapping):
        return row.get("image"), row.get("label")
    if isinstance(row, tuple | list) and len(row) == 2:
        return row[0], row[1]
    return row, None


def _label(label: Any, where: str) -> int | None:
    if label is None:
        return None
    if isinstance(label, Tensor | np.ndarray):
        label = label.item() if label.size == 1 or getattr(label, "numel", int)() == 1 else label
    if isinstance(label, bool | float | str | Tensor | np.ndarray) or not hasattr(
        label, "__index__"
    ):
        raise OvertoneError(
            f"the label of {where} is one whole number, not {' '.join(repr(label).split()):.40}."
        )
    if int(label) < 0:
        raise OvertoneError(f"the label of {where} is {int(label)}: labels count from 0.")
    return int(label)


def _picture(value: Any, lowest: float, done: Counter[str]) -> Image.Image:
    """An image as Pillow's. Raises `ValueError` for what is none."""
    if isinstance(value, Image.Image):
        return value
    if not _is_array(value):
        raise ValueError(f"a {type(value).__name__} is not an image")
    array = _numpy(value)
    if array.ndim == 3:
        array = _channels_last(array, first=isinstance(value, Tensor))
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or not array.size:
        raise ValueError(f"it has the shape {tuple(value.shape)}, and no 1 or 3 channels")
    if array.dtype != np.uint8:
        low, high = float(array.min()), float(array.max())
        if array.dtype.kind != "f" or not lowest <= low <= high <= 1:
            raise ValueError(
                f"its values are {array.dtype} from {low:.6g} to {high:.6g}: uint8, or floats that"
                " are all in [0, 1] or all in [-1, 1], are wanted"
            )
        array = ((array - lowest) * (255 / (1 - lowest))).round().astype(np.uint8)
        done[f"floats in [{lowest:g}, 1] scaled to 8 bits"] += 1
    return Image.fromarray(np.ascontiguousarray(array))


def _channels_last(array: np.ndarray, *, first: bool) -> np.ndarray:
    """An image (height, width[, channels]): tensors have their channels first, arrays last, unless
    only the other can be."""
    fits = [array.shape[0] in (1, 3), array.shape[2] in (1, 3)]
    if fits[0] and (first or not fits[1]):
        array = array.transpose(1, 2, 0)
    return array[:, :, 0] if array.shape[2] == 1 else array


def _numpy(value: Any) -> np.ndarray:
    if not isinstance(value, Tensor):
        return value
    half = value.dtype in (torch.bfloat16, torch.float16)
    return (value.float() if half else value).detach().cpu().numpy()
