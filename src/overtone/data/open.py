"""Data by name."""

from __future__ import annotations

from pathlib import Path

from overtone.data.builtin import Glyphs, open_digits, open_fashion_mnist
from overtone.data.images import ImageData, has_splits, open_folder
from overtone.errors import OvertoneError, unknown

NAMES = ("builtin:digits", "builtin:glyphs", "fashion-mnist")


def open_data(
    name: str, resolution: int, channels: int, *, split: str = "train", skip_bad: bool = False
) -> ImageData:
    """The images of `name` at `resolution` x `resolution` px with 1 or 3 channels.

    `name` is 'builtin:digits', 'builtin:glyphs', 'fashion-mnist', or the path of a folder of
    images whose sub-folders, if any, are the classes. `split` is 'train' or 'test'.
    """
    match name:
        case "builtin:digits":
            return open_digits(resolution, channels, split)
        case "builtin:glyphs":
            return Glyphs(resolution, channels, split)
        case "fashion-mnist":
            return open_fashion_mnist(resolution, channels, split)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return open_folder(folder, resolution, channels, split=split, skip_bad=skip_bad)
    if "/" in name:
        raise OvertoneError(f"the folder of images '{name}' does not exist.")
    raise unknown("data set", name, NAMES)


def held_out(
    name: str, resolution: int, channels: int, *, skip_bad: bool = False
) -> ImageData | None:
    """The test split of `name`, or None for a folder of images that has none."""
    folder = Path(name).expanduser()
    if folder.is_dir() and not has_splits(folder):
        return None
    return open_data(name, resolution, channels, split="test", skip_bad=skip_bad)
