"""`dataset.json`, in which EDM's and StyleGAN's tools write the classes of images:

    {"labels": [["00000/img00000000.png", 6], ["00000/img00000001.png", 9], ...]}

Names in it are only compared with those of the images that were found, never opened.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from overtone.errors import OvertoneError

LABELS_FILE = "dataset.json"
MOST_CLASSES = 100_000
BYTES_AN_IMAGE = 1024
"""that the file may have, and as many for each of 1024 images more"""


def cleaned(name: str) -> str:
    """The name of a file in an archive, whatever tool wrote it: "./a\\b.png" is a/b.png."""
    parts = name.replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def check_size(place: str, size: int, images: int) -> None:
    """Raises `OvertoneError` for a file that is far larger than the labels of so many images."""
    if size > BYTES_AN_IMAGE * (images + 1024):
        raise OvertoneError(
            f"{place} has {size:,} bytes, too many for the labels of {images:,} images: leave those"
            " of other images away."
        )


class Labels:
    """The contents of a `dataset.json`, of images in the folder `above`; `place` says where it is,
    for messages.

    Raises `OvertoneError` for what is not of its form.
    """

    def __init__(self, content: bytes, place: str, above: str) -> None:
        self.place, self.above = place, above
        try:
            self.text = content.decode("utf-8-sig")  # some editors write a mark before it
        except UnicodeDecodeError as error:
            raise OvertoneError(f"{place} can't be read ({error}): write it as UTF-8.") from None
        twice: str | None = None
        known: dict[str, Any] = {}
        try:
            pairs = json.loads(self.text)["labels"]
            for name, label in () if pairs is None else pairs:
                name = cleaned(name)
                twice = name if known.get(name, label) != label else twice
                known[name] = label
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise OvertoneError(
                f'{place} is not of the form {{"labels": [["name.png", 0], ...]}}'
                f" ({reprlib.repr(error)}): write it so, or remove it to read folders as classes."
            ) from None
        if twice is not None:
            raise OvertoneError(f"{place} has two labels for {twice}: remove one.")
        self.known: dict[str, Any] | None = None if pairs is None else known
        """None where the file says that there are no labels"""

    def of(self, images: Iterable[str]) -> list[int] | None:
        """The class labels of images by their names below the root; None where there are none."""
        if self.known is None:
            return None
        return [self._number(image.removeprefix(self.above)) for image in images]

    def _number(self, name: str) -> int:
        assert self.known is not None
        if name not in self.known:
            raise OvertoneError(
                f"{self.place} has no label for {name}: add it, or remove the image."
            )
        label = self.known[name]
        if type(label) is not int or label < 0:
            raise OvertoneError(
                f"{self.place}: the label of {name} is {reprlib.repr(label)}, not a class label:"
                " write one, from 0 on."
            )
        if label >= MOST_CLASSES:
            raise OvertoneError(
                f"{self.place}: the label of {name} is {reprlib.repr(label)}, and {MOST_CLASSES:,}"
                " classes are the most: number them from 0 on."
            )
        return label

    def without(self, images: Collection[str]) -> Iterator[str]:
        """A sentence on labels whose images are not among these, if there are any."""
        away = sorted(name for name in self.known or () if self.above + name not in images)
        if away:
            yield f"{len(away):,} labels are of images that are not there ({away[0]})"
