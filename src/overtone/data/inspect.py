"""What is in a data set, before anything is trained on it."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch

from overtone.data.images import ImageData, Pixels, without_images
from overtone.data.names import is_known
from overtone.data.open import open_data, open_source
from overtone.data.reading import Item, measured, read_all
from overtone.errors import OvertoneError
from overtone.sizes import sides

SHOWN = 64
SHEET_RESOLUTION = 64


@dataclass
class Inspection:
    """What looking at every image found."""

    name: str
    split: str
    count: int = 0
    """The number of images that can be used."""
    endless: bool = False
    """Whether there are as many images as are asked for; `count` is then only an upper limit."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """The (width, height) of the images as they are stored."""
    classes: dict[str, int] = field(default_factory=dict)
    """The number of images of each class. It is empty for data without classes."""
    conversions: Counter[str] = field(default_factory=Counter)
    """What is done to read images, and to how many of them."""
    refused: list[str] = field(default_factory=list)
    """The images that can't be read or are too small, and why."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what was passed over."""
    sheet: Pixels | None = None
    """Some of the images, evenly spread."""


def inspect_data(
    name: str, resolution: int | None = None, channels: int = 3, split: str = "train"
) -> Inspection:
    """Read every image of `name` as `open_data` would at `resolution`, and say what is there.

    Without a resolution no image is too small. Raises `OvertoneError` where there is nothing.
    """
    found = Inspection(name, split)
    if is_known(name):
        return _opened(found, _known(found, resolution, channels))
    source = open_source(name, split)
    if source is None:
        raise OvertoneError(f"{name} has no {split} split: leave --split out.")
    labels: Counter[int] = Counter()
    sizes: dict[str, tuple[int, int]] = {}
    every = max(1, (source.count or SHOWN) // SHOWN)
    shown: list[np.ndarray] = []
    items = (measured(item, sizes) for item in source.items())
    for number, (item, result) in enumerate(read_all(items, 1, channels, source.count)):
        size = sizes.pop(item.name, None)
        if isinstance(result, OvertoneError):
            found.refused.append(str(result))
            continue
        assert size is not None
        found.sizes[size] += 1
        if resolution is not None and min(size) < resolution:
            found.refused.append(
                f"{item.name} is {size[0]} x {size[1]}, smaller than the resolution {resolution}."
            )
            continue
        found.count += 1
        found.conversions.update(result.done)
        if item.label is not None:
            labels[item.label] += 1
        if number % every == 0 and len(shown) < SHOWN:
            with contextlib.suppress(Exception):  # of a file that has changed since
                shown.append(_thumbnail(item, channels))
    if not found.count and not found.refused:
        raise OvertoneError(f"{name} has no images.")
    counts = [labels[number] for number in range(len(source.class_names))]
    found.classes = dict(zip(source.class_names, counts, strict=True))
    found.notes += [*source.notes, *without_images(source.class_names, counts)]
    found.sheet = torch.from_numpy(np.stack(shown)) if shown else None
    return found


def _thumbnail(item: Item, channels: int) -> np.ndarray:
    from PIL import Image, ImageOps

    from overtone.data.converting import to_mode, upright

    image, _ = to_mode(upright(item.read()), "RGB" if channels == 3 else "L")
    side = SHEET_RESOLUTION
    how = Image.Resampling.LANCZOS if min(image.size) > side else Image.Resampling.NEAREST
    pixels = np.asarray(ImageOps.fit(image, (side, side), how))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _known(found: Inspection, resolution: int | None, channels: int) -> ImageData:
    """A data set of Overtone's own, in its size where none is asked for, or a registered one."""
    name = found.name
    own = {
        "builtin:digits": (8, 1),
        "builtin:glyphs": (32, 3),
        "builtin:photos": (64, 3),
        "fashion-mnist": (28, 1),
    }
    if name not in own and resolution is None:
        raise OvertoneError(f"pass --resolution: it decides how '{name}' is opened.")
    size, planes = own.get(name, (resolution or 0, channels))
    if name in ("builtin:glyphs", "builtin:photos"):
        planes = channels
    return open_data(name, resolution or size, planes, split=found.split)


def _opened(found: Inspection, data: ImageData) -> Inspection:
    found.count = len(data)
    height, width = sides(data.resolution)
    found.sizes[width, height] = len(data)
    found.endless = data.endless
    found.conversions.update(data.conversions)
    found.refused += data.left_out
    found.notes += data.notes
    if not data.class_names:
        found.classes = {}
    elif not data.endless:
        labels = torch.cat([data.fetch([i])[1] for i in range(len(data))])
        counts = torch.bincount(labels, minlength=data.num_classes).tolist()
        found.classes = dict(zip(data.class_names, counts, strict=True))
        found.notes += without_images(data.class_names, counts)
    else:
        found.classes = {name: len(data) // data.num_classes for name in data.class_names}
    found.sheet = data.fetch(data.spread(min(SHOWN, len(data))))[0]
    return found
