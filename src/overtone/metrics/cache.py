"""Features of data, computed once and kept by what they are computed from."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from overtone import storage
from overtone.data.images import ImageData, Pixels
from overtone.launch import Processes
from overtone.leftovers import sweep
from overtone.metrics.features import Extractor, Features
from overtone.metrics.parts import CLASSES, LOGITS, SPATIAL, VECTORS
from overtone.metrics.vectors import FeatureFile, Vectors
from overtone.sizes import Resolution, sides

BATCH = 256


def folder() -> Path:
    """Where features are kept."""
    return storage.cache_directory() / "features"


def parts_of(extractor: Extractor, resolution: Resolution, channels: int) -> dict[str, int]:
    """The parts of what an extractor says of images of a size, and their numbers of dimensions."""
    shape = 1, channels, *sides(resolution)
    said = by_part(extractor(torch.zeros(shape, dtype=torch.uint8)))
    return {part: tensor.shape[1] for part, tensor in said.items()}


def by_part(features: Features) -> dict[str, Tensor]:
    """What an extractor says, by part; what it does not know is left out."""
    said = {VECTORS: features.vectors, LOGITS: features.logits, SPATIAL: features.spatial}
    return {part: tensor for part, tensor in said.items() if tensor is not None}


def features_of(
    extractor: Extractor,
    data: ImageData,
    indices: Sequence[int],
    parts: Iterable[str],
    among: Processes,
) -> dict[str, Vectors]:
    """Features of some images of a data set, by part, from the cache or computed now.

    The work is shared among the processes of a job. Each part has a file, named by the digest of
    the images' contents and of the extractor's weights.
    """
    dims = parts_of(extractor, data.resolution, data.channels) | {CLASSES: 1}
    kept = {part: folder() / _name(extractor, data, indices, part) for part in parts}
    missing = [
        part
        for part, file in kept.items()
        if among.any(not _is_whole(file, 4 * dims[part] * len(indices)))
    ]
    if missing:
        sweep(folder(), days=1)
        mine = among.share(indices)
        with contextlib.ExitStack() as stack:
            files = {
                part: stack.enter_context(FeatureFile(folder(), dims[part], among))
                for part in missing
            }
            for at in range(0, len(mine), BATCH):
                for part, tensor in _said(extractor, *data.fetch(mine[at : at + BATCH])).items():
                    if part in files:
                        files[part].add(tensor)
            for part, file in files.items():
                file.vectors()
                if among.is_main:
                    file.whole.replace(kept[part])
                among.wait()
    return {part: Vectors(file, dims[part]) for part, file in kept.items()}


def _said(extractor: Extractor, pixels: Pixels, labels: Tensor) -> dict[str, Tensor]:
    return by_part(extractor(pixels)) | {CLASSES: labels[:, None].float()}


def _name(extractor: Extractor, data: ImageData, indices: Sequence[int], part: str) -> str:
    what = f"{data.fingerprint} {data.resolution} {data.channels} {extractor.digest} {part}"
    return hashlib.sha256(f"{what} {list(indices)}".encode()).hexdigest()[:20]


def _is_whole(file: Path, size: int) -> bool:
    """Whether a file is there, as long as it has to be: one that a crash cut short is not."""
    return file.exists() and file.stat().st_size == size
