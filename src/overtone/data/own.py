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
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from overtone.data.images import ArrayData, ImageData, Item, read_all
from overtone.errors import OvertoneError

LOOKED_AT = 256
"""items whose floats are looked at, to tell [0, 1] from [-1, 1]"""


def own_data(
    value: Any, resolution: int, channels: int, name: str = "", *, skip_bad: bool = False
) -> ImageData:
    """Anybody's data as `ImageData` of that size.

    Arguments:
        value: an object with `__len__`, `fetch`, `class_names` or `classes`, and `fingerprint`,
            whose images are of that size already; or an array (count, channels, height, width) or
            (count, height, width[, channels]), uint8, or floats in [0, 1] or [-1, 1]; or a tuple of
            such an array, labels (count,) and, if they have any, the names of the classes; or a
            sequence of items, each an image (Pillow's, or a tensor (channels, height, width), or an
            array (height, width[, channels])), a pair of an image and its label, or a dictionary
            with `image` and `label`. Arrays and sequences are read once, cropped and resized as
            files are, and kept in memory. Floats are taken to be in [-1, 1] if any of the first few
            hundred is negative, else in [0, 1], which is said.
        name: what it is called in messages and cards; the name of its class if left out.

    Raises `OvertoneError` for anything else, and for images that can't be read.
    """
    name = name or getattr(value, "name", "") or type(value).__name__
    if isinstance(value, ImageData):
        return _checked(value, resolution, channels, name)
    if hasattr(value, "fetch") or hasattr(value, "fingerprint"):
        return _checked(Fetched(value, resolution, channels, name), resolution, channels, name)
    labels, class_names = None, tuple(_names_in(value))
    if isinstance(value, tuple) and value and _is_array(value[0]):
        value, labels, *more = (*value, None) if len(value) == 1 else value
        class_names = tuple(map(str, more[0])) if more else ()
    if _is_array(value):
        rows: Any = _rows(value, name)
    elif hasattr(value, "__len__") and hasattr(value, "__getitem__"):
        rows = value
    else:
        raise OvertoneError(
            f"{name} is no data set: it needs a length and items, or `fetch` and a `fingerprint`."
        )
    if not len(rows):
        raise OvertoneError(f"{name} has no images.")
    if labels is not None and len(labels) != len(rows):
        raise OvertoneError(f"{name} has {len(labels)} labels for {len(rows)} images.")
    return _read(rows, labels, class_names, resolution, channels, name, skip_bad=skip_bad)


class Fetched(ImageData):
    """An object of somebody's own with a length, `fetch`, classes and a fingerprint."""

    def __init__(self, value: Any, resolution: int, channels: int, name: str) -> None:
        missing = [m for m in ("__len__", "fetch", "fingerprint") if not hasattr(value, m)]
        if missing:
            raise OvertoneError(
                f"{name} lacks `{missing[0]}`: a data set of your own has a length,"
                " `fetch(indices)` that returns images and labels, `class_names`, and a"
                " `fingerprint` that changes when the images do."
            )
        self.value, self.name = value, name
        self.resolution, self.channels = resolution, channels
        self.class_names = tuple(_names_in(value))
        self.fingerprint = str(value.fingerprint)
        self.endless = bool(getattr(value, "endless", False))
        if not len(value):
            raise OvertoneError(f"{name} has no images.")

    def __len__(self) -> int:
        return len(self.value)

    def fetch(self, indices: Sequence[int]) -> tuple[Tensor, Int[Tensor, " batch"]]:
        got = self.value.fetch(list(indices))
        if not isinstance(got, tuple) or len(got) != 2:
            raise OvertoneError(
                f"`fetch` of {self.name} returns {type(got).__name__}: it has to return a pair, the"
                " images and their labels."
            )
        images, labels = (torch.as_tensor(part) for part in got)
        wanted = (len(indices), self.channels, self.resolution, self.resolution)
        if tuple(images.shape) != wanted or images.dtype != torch.uint8:
            raise OvertoneError(
                f"`fetch` of {self.name} returns images of shape {tuple(images.shape)} and type"
                f" {images.dtype}: {wanted} and torch.uint8 are wanted."
            )
        high = max(self.num_classes - 1, 0)
        if tuple(labels.shape) != wanted[:1] or labels.is_floating_point():
            raise OvertoneError(
                f"`fetch` of {self.name} returns labels of shape {tuple(labels.shape)} and type"
                f" {labels.dtype}: whole numbers are wanted, one an image."
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= high:
            raise OvertoneError(
                f"{self.name}: labels go from {int(labels.min())} to {int(labels.max())}, outside"
                f" 0..{high}."
            )
        return images, labels.to(torch.int64)


def _checked(data: ImageData, resolution: int, channels: int, name: str) -> ImageData:
    """The data, once a first image has been looked at."""
    if (data.resolution, data.channels) != (resolution, channels):
        raise OvertoneError(
            f"{name} has images of {data.resolution} px with {data.channels} channels, and"
            f" {resolution} px with {channels} are wanted."
        )
    if not str(data.fingerprint):
        raise OvertoneError(f"{name} has an empty fingerprint: it tells one data set from another.")
    data.fetch([0])
    return data


def _names_in(value: Any) -> Sequence[str]:
    """The names of an object's classes."""
    names = getattr(value, "class_names", None)
    if names is None:
        names = getattr(value, "classes", ())
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | Tensor)


def _rows(array: Any, name: str) -> np.ndarray:
    """An array of images as (count, height, width[, channels])."""
    images = array.detach().cpu().numpy() if isinstance(array, Tensor) else array
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


def _read(
    rows: Sequence[Any],
    labels: Any,
    class_names: Sequence[str],
    resolution: int,
    channels: int,
    name: str,
    *,
    skip_bad: bool,
) -> ArrayData:
    """Items read into memory, as images from files are."""
    done: Counter[str] = Counter()
    low = _lowest(rows)
    pixels, numbers, bad = [], [], []
    for item, result in read_all(
        _items(rows, labels, name, low, done), resolution, channels, len(rows)
    ):
        if isinstance(result, OvertoneError):
            bad.append(str(result))
            continue
        pixels.append(result[0])
        numbers.append(item.label)
        done.update(result[1])
    if bad and not (skip_bad and pixels):
        more = f" {len(bad) - 3} more like it." if len(bad) > 3 else ""
        raise OvertoneError(f"{' '.join(bad[:3])}{more} Mend or remove them.")
    labelled = [number for number in numbers if number is not None]
    if labelled and len(labelled) < len(numbers):
        raise OvertoneError(
            f"{name}: {len(numbers) - len(labelled)} of {len(numbers)} images have no label."
        )
    if labelled and not class_names:
        class_names = tuple(str(number) for number in range(max(labelled) + 1))
    if class_names and not labelled:
        raise OvertoneError(f"{name} names {len(class_names)} classes, and has no labels.")
    images, digest = np.stack(pixels), hashlib.sha256()
    known = np.array(labelled, np.int64) if labelled else None
    for part in (images, known if known is not None else np.zeros(0)):
        digest.update(np.ascontiguousarray(part).data)
    return ArrayData(
        name,
        images,
        known,
        class_names,
        "centre crop to a square, Lanczos",
        digest.hexdigest()[:16],
        bad,
        dict(done),
    )


def _lowest(rows: Sequence[Any]) -> float:
    """Where the range of floats begins: -1 if some are negative, else 0."""
    for number in range(0, len(rows), max(1, len(rows) // LOOKED_AT)):
        image, _ = _pair(rows[number])
        if _is_array(image) and float(image.min() if len(image) else 0) < 0:
            return -1.0
    return 0.0


def _pair(row: Any) -> tuple[Any, Any]:
    """The image of an item and its label, where it has one."""
    if isinstance(row, Mapping):
        return row.get("image"), row.get("label")
    if isinstance(row, tuple | list) and len(row) == 2:
        return row[0], row[1]
    return row, None


def _items(
    rows: Sequence[Any], labels: Any, name: str, low: float, done: Counter[str]
) -> Iterator[Item]:
    for number in range(len(rows)):
        where = f"{name}[{number}]"
        row = rows[number]
        if isinstance(row, Mapping) and "image" not in row:
            raise OvertoneError(f"{where} has no 'image': {', '.join(map(str, row))}.")
        image, label = _pair(row)
        label = labels[number] if labels is not None else label
        yield Item(where, partial(_picture, image, low, done), _label(label, where))


def _label(label: Any, where: str) -> int | None:
    if label is None:
        return None
    if isinstance(label, Tensor | np.ndarray) and label.ndim == 0:
        label = label.item()
    if isinstance(label, bool | float | str) or not hasattr(label, "__index__"):
        raise OvertoneError(f"the label of {where} is a whole number, not {label!r:.40}.")
    if int(label) < 0:
        raise OvertoneError(f"the label of {where} is {int(label)}: labels count from 0.")
    return int(label)


def _picture(value: Any, lowest: float, done: Counter[str]) -> Image.Image:
    """An image as Pillow's. Raises `ValueError` for what is none."""
    if isinstance(value, Image.Image):
        return value
    if not _is_array(value):
        raise ValueError(f"a {type(value).__name__} is no image")
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
    if isinstance(value, Tensor) and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(f"it has the shape {tuple(value.shape)}, and no 1 or 3 channels")
    if array.dtype != np.uint8:
        low, high = float(array.min()), float(array.max())
        if array.dtype.kind != "f" or not lowest <= low <= high <= 1:
            raise ValueError(
                f"its values are {array.dtype} from {low:.3g} to {high:.3g}: uint8, or floats that"
                " are all in [0, 1] or all in [-1, 1], are wanted"
            )
        array = ((array - lowest) * (255 / (1 - lowest))).round().astype(np.uint8)
        done[f"floats in [{lowest:g}, 1] scaled to 8 bits"] += 1
    return Image.fromarray(np.ascontiguousarray(array))
