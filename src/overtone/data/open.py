"""Data by name."""

from __future__ import annotations

import os
from typing import Any

from overtone.data.archives import zip_layout
from overtone.data.batches import SUFFIXES, batch_source, is_batch, open_batch
from overtone.data.builtin import Glyphs, open_digits, open_fashion_mnist
from overtone.data.files import folder_layout
from overtone.data.hub import hub_source
from overtone.data.images import ImageData
from overtone.data.layout import Layout
from overtone.data.names import GIVEN, NAMES, OPENERS, TABLES, in_full, is_known, path_of, text_of
from overtone.data.own import lowest_of, own_data
from overtone.data.photos import Photos
from overtone.data.reading import Source, decode
from overtone.data.rules import Reading
from overtone.data.tables import cut
from overtone.errors import OvertoneError, unknown
from overtone.registry import said
from overtone.sizes import Resolution


def open_data(
    name: str,
    resolution: Resolution,
    channels: int,
    *,
    split: str = "train",
    skip_bad: bool = False,
    reading: Reading | None = None,
) -> ImageData:
    """The images of `name` with 1 or 3 channels, at a resolution: pixels a side, or height and
    width.

    `name` is one of

        builtin:digits, builtin:glyphs, builtin:photos, fashion-mnist
        a folder or a zip of images (`overtone.data.layout`)
        FILE.npz, images in one array (`overtone.data.batches`)
        hf:OWNER/NAME, hf:FOLDER (`overtone.data.hub`), FILE.parquet with `hf:` or without
        a name that was registered (`overtone.data.data_set`)

    `split` is 'train' or 'test'. `reading` says how pictures become images of the wanted size and
    colours; `skip_bad` alone leaves out those that can't be read or are too small. Raises
    `OvertoneError` for what does not exist or can't be read.

    Examples:
        >>> digits = open_data("builtin:digits", 8, 1)
        >>> len(digits), digits.num_classes
        (1500, 10)
        >>> images, labels = digits.fetch([0, 1, 2])
        >>> images.shape, images.dtype
        (torch.Size([3, 1, 8, 8]), torch.uint8)
    """
    reading = reading or Reading(skip_bad)
    match name:
        case "builtin:digits":
            return open_digits(resolution, channels, split)
        case "builtin:glyphs":
            return Glyphs(resolution, channels, split)
        case "builtin:photos":
            return Photos(resolution, channels, split)
        case "fashion-mnist":
            return open_fashion_mnist(resolution, channels, split)
    if name.startswith(GIVEN):
        raise OvertoneError(
            f"the data '{name.removeprefix(GIVEN)}' were given to train(...) in Python, as an"
            " object: go on with the run there, or name other data, --data."
        )
    if name in OPENERS:
        own = registered(name, resolution, channels, split, reading)
        if own is None:
            raise OvertoneError(f"{name} has no {split} split.")
        return own
    if is_batch(name) and split == "train":
        return open_batch(name, resolution, channels, reading)
    source = open_source(name, split)
    if source is None:
        raise OvertoneError(f"{name} has no test split.")
    return decode(source, resolution, channels, reading)


def registered(
    name: str, resolution: Resolution, channels: int, split: str, reading: Reading
) -> ImageData | None:
    """A registered data set (`data_set`); None without that split."""
    value = _opened(name, resolution, channels, split)
    if value is None:
        return None
    lowest = lowest_of(value)
    if split != "train" and lowest == 0:  # floats mean the same in both splits
        lowest = lowest_of(_opened(name, resolution, channels, "train"))
    return own_data(value, resolution, channels, name, reading=reading, lowest=lowest)


def _opened(name: str, resolution: Resolution, channels: int, split: str) -> Any:
    """What the function that was registered under a name returns."""
    own: Any = resolution  # of rectangles a pair, which the function may not expect
    try:
        return OPENERS[name](own, channels, split)
    except OvertoneError:
        raise
    except (Exception, SystemExit) as error:  # whatever a foreign function raises
        raise OvertoneError(f"the data set '{name}' can't be opened: {said(error)}.") from error


def open_source(name: str, split: str = "train") -> Source | None:
    """The images of a folder, a zip, an array or an `hf:` data set, not decoded yet; None without
    that split."""
    name = in_full(name)
    if name.startswith("hf:"):
        return hub_source(name, split)
    if is_batch(name):
        return batch_source(name) if split == "train" else None
    return layout_of(name).source(split)


def layout_of(name: str) -> Layout:
    """The files of a folder or a zip."""
    path = path_of(name)
    if name and os.path.isdir(path):
        return folder_layout(path)
    if os.path.isfile(path):
        return zip_layout(path)
    if os.path.exists(path) and name:
        raise OvertoneError(f"'{name}' is neither a folder nor a file: name one of images.")
    if "/" in name or path.suffix in (".zip", *SUFFIXES, *TABLES):
        raise OvertoneError(
            f"'{name}' does not exist: no folder and no zip of images is there. Check the name."
        )
    raise unknown("data set", name, (*NAMES, *OPENERS))


def public_name(name: str) -> str:
    """The name as it may be published: of a path on this machine only the last part is told."""
    name = in_full(name)
    if not name or is_known(name):
        return name
    path = path_of(name)
    if name.startswith("hf:"):
        own, _ = cut(name.removeprefix("hf:"))
        path = path_of(own)
        if own.count("/") == 1 and not os.path.exists(path):
            return name
    return text_of(os.path.basename(os.path.abspath(path)))


def held_out(
    name: str,
    resolution: Resolution,
    channels: int,
    *,
    skip_bad: bool = False,
    reading: Reading | None = None,
) -> ImageData | None:
    """The test split of `name`, or None for images that have none."""
    reading = reading or Reading(skip_bad)
    if name in OPENERS:
        return registered(name, resolution, channels, "test", reading)
    if name in NAMES:
        return open_data(name, resolution, channels, split="test", reading=reading)
    name = in_full(name)
    if is_batch(name):
        return None
    if name.startswith("hf:"):
        source = hub_source(name, "test")
    else:
        layout = layout_of(name)
        source = layout.source("test") if layout.has_split("test") else None
    return None if source is None else decode(source, resolution, channels, reading)
