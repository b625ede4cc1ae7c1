"""Somebody's own objects that hand out images by index, each of their answers checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from overtone.data.images import ImageData
from overtone.errors import OvertoneError
from overtone.registry import said
from overtone.sizes import Resolution, sides

MOST_CLASSES = 1_000_000
"""A label above this is the number of something else than a class."""


class Fetched(ImageData):
    """An object of somebody's own with a length, `fetch`, classes and a fingerprint."""

    stored = False

    def __init__(self, value: Any, resolution: Resolution, channels: int, name: str) -> None:
        missing = [m for m in ("__len__", "fetch", "fingerprint") if not hasattr(value, m)]
        if missing:
            raise OvertoneError(
                f"{name} lacks `{missing[0]}`: a data set of your own has a length,"
                " `fetch(indices)` that returns images and labels, `class_names`, and a"
                " `fingerprint` that changes when the images do."
            )
        fingerprint = value.fingerprint
        if not isinstance(fingerprint, str | int) or fingerprint == "":
            raise OvertoneError(
                f"the fingerprint of {name} is a text that tells one data set from another, not"
                f" {fingerprint!r:.60}."
            )
        self.value, self.name = value, name
        self.resolution, self.channels = resolution, channels
        self.class_names = names_in(value)
        self.fingerprint = str(fingerprint)
        self.endless = bool(getattr(value, "endless", False))
        if not len(value):
            raise OvertoneError(f"{name} has no images.")

    def __len__(self) -> int:
        return len(self.value)

    def fetch(self, indices: Sequence[int]) -> tuple[Tensor, Int[Tensor, " batch"]]:
        try:
            got = self.value.fetch(list(indices))
        except Exception as error:  # whatever a foreign function raises
            raise OvertoneError(f"`fetch` of {self.name} fails: {said(error)}.") from error
        if not isinstance(got, tuple) or len(got) != 2:
            raise OvertoneError(
                f"`fetch` of {self.name} returns {type(got).__name__}: it has to return a pair, the"
                " images and their labels."
            )
        try:
            images, labels = (torch.as_tensor(part) for part in got)
        except Exception:  # whatever torch raises for what is not an array
            kinds = " and ".join(type(part).__name__ for part in got)
            raise OvertoneError(
                f"`fetch` of {self.name} returns {kinds}: tensors or arrays are wanted, labels of 0"
                " where there are no classes."
            ) from None
        wanted = (len(indices), self.channels, *sides(self.resolution))
        if tuple(images.shape) != wanted or images.dtype != torch.uint8:
            raise OvertoneError(
                f"`fetch` of {self.name} returns images of shape {tuple(images.shape)} and type"
                f" {images.dtype}: {wanted} and torch.uint8 are wanted."
            )
        high = max(self.num_classes - 1, 0)
        if tuple(labels.shape) != wanted[:1] or labels.is_floating_point() or labels.is_complex():
            raise OvertoneError(
                f"`fetch` of {self.name} returns labels of shape {tuple(labels.shape)} and type"
                f" {labels.dtype}: whole numbers are wanted, one an image."
            )
        labels = labels.to(torch.int64)
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= high:
            raise OvertoneError(
                f"{self.name}: labels go from {int(labels.min())} to {int(labels.max())}, outside"
                f" 0..{high}."
            )
        return images, labels


def names_in(value: Any) -> tuple[str, ...]:
    """The names of an object's classes: `class_names`, `classes` (torchvision's), or those of a
    Hugging Face data set's `label`."""
    names = getattr(value, "class_names", None)
    if names is None or callable(names):
        names = getattr(value, "classes", None)
    if names is None or callable(names):
        features = getattr(value, "features", None)
        label = features.get("label") if isinstance(features, Mapping) else None
        names = getattr(label, "names", None)
    return listed_names(names)


def listed_names(names: Any) -> tuple[str, ...]:
    """Names of classes in the order of their numbers: a sequence, a number of nameless classes, or
    names to numbers or numbers to names."""
    if isinstance(names, int) and not isinstance(names, bool):
        names = range(min(names, MOST_CLASSES))
    if isinstance(names, Mapping):
        pairs = [(v, k) if isinstance(v, int) else (k, v) for k, v in names.items()]
        names = [name for _, name in sorted(pairs, key=lambda pair: pair[0])]
    if names is None or isinstance(names, str) or not hasattr(names, "__iter__"):
        return ()
    return tuple(map(str, names))
