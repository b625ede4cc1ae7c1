"""Latents of images, encoded once and kept: a directory of

    latents.json          what they are of: VAE, images, resolution, mirrored or not
    00000.safetensors     mean and standard deviation (fp16) and labels of the first images,
    00001.safetensors     and of the next ones; each appears whole or not at all
    test/                 the same for the held-out images, where there are any

What identifies them is the fingerprint of the index, which every file carries: of the VAE's digest,
the digest of the pixels and labels as they were decoded (`ImageData.fingerprint`), how many of
them, mirrored or not, and the scale. The name of the data and the times of files are no part of it:
the same pixels elsewhere have the same latents; other pixels under the same name are never answered
with these, but refused in the same directory, and encoded into another one in the cache.

Encoding goes on where it was interrupted, and is shared among the processes of a job.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from overtone import settings, storage
from overtone.data.images import ImageData, to_unit
from overtone.data.names import path_of
from overtone.data.open import public_name
from overtone.data.shards import Shards, check_claim, claim
from overtone.errors import OvertoneError
from overtone.launch import processes
from overtone.networks.vae import DECODED_PIXELS, VAE
from overtone.processes.noise import SeededNoise
from overtone.progress import Display
from overtone.ranges import Count, Finite, Positive, Size, check_fields
from overtone.sizes import Resolution, divided, divides, shown, sides

INDEX_FILE = "latents.json"
BLOCK = 1024  # images a file
BATCH = 32


@dataclass(frozen=True)
class LatentsIndex:
    """The contents of latents.json."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    images: str
    """The public name of the data."""
    image_fingerprint: str
    image_resolution: Resolution
    image_channels: Size
    count: Count
    """The number of latents, mirrored ones included."""
    mirrored: bool
    """Whether the second half belongs to the images flipped left to right."""
    vae: str
    """The digest of the VAE."""
    resolution: Resolution
    """The height and width of the latents."""
    channels: Size
    scaling_factor: Positive
    shift_factor: Finite
    class_names: tuple[str, ...] = ()
    block: Count = BLOCK

    def __post_init__(self) -> None:
        check_fields(self)


class LatentData(ImageData):
    """The latents in a directory, as training data.

    `fetch` returns mean and standard deviation beside each other, fp16; `clean` draws from them.
    Raises `OvertoneError` for a directory that is incomplete or damaged, naming the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / INDEX_FILE
        self.index = settings.load(LatentsIndex, storage.read_json(file), str(file))
        self.name = self.index.images
        self.resolution, self.channels = self.index.resolution, self.index.channels
        self.class_names = self.index.class_names
        self.fingerprint = fingerprint_of(self.index)
        self.resize_rule = "none"
        self.shards = shards_of(folder, self.index)
        self.labels = self.shards.column("labels")

    def class_counts(self) -> Sequence[int]:
        """Mirrored ones counted."""
        return torch.bincount(self.labels, minlength=self.num_classes).tolist()

    def facts(self) -> dict[str, Any]:
        """What the latents are, beside the images they are of: told where runs differ."""
        index = settings.dump(self.index)
        names = ("vae", "image_resolution", "mirrored", "scaling_factor", "shift_factor")
        return {name: index[name] for name in names}

    def __len__(self) -> int:
        return self.index.count

    def fetch(
        self, indices: Sequence[int]
    ) -> tuple[Float[Tensor, "batch double rows columns"], Int[Tensor, " batch"]]:
        if not len(indices):
            shape = (0, 2 * self.channels, *sides(self.resolution))
            return torch.empty(shape, dtype=torch.float16), self.labels[:0]
        moments = torch.stack([self.shards.row(i, "moments") for i in indices]).half()
        return moments, self.labels[list(indices)]

    def clean(
        self, items: Float[Tensor, "batch double rows columns"], source: SeededNoise
    ) -> Float[Tensor, "batch channels rows columns"]:
        """Latents drawn from their posterior, at the scale they are diffused at."""
        mean, std = items.float().chunk(2, dim=1)
        z = mean + std * source.normal(mean)
        return (z - self.index.shift_factor) * self.index.scaling_factor


def shards_of(folder: Path, index: LatentsIndex) -> Shards:
    """The files of latents in a directory."""
    return Shards(
        folder,
        index.count,
        index.block,
        "moments",
        (2 * index.channels, *sides(index.resolution)),
        "delete it if it is there, and encode into the same directory again, which makes only what"
        " is missing",
        fingerprint_of(index),
    )


def fingerprint_of(index: LatentsIndex) -> str:
    """Changes with anything that the latents depend on; not with the data's name or the blocks."""
    facts = settings.dump(index)
    del facts["images"], facts["block"]
    return settings.fingerprint(facts)


def is_latents(name: str) -> bool:
    """Whether the name is that of a directory of latents."""
    return os.path.exists(path_of(name) / INDEX_FILE)


def latents_index(
    data: ImageData, vae: VAE, *, mirror: bool = False, images: int | None = None
) -> LatentsIndex:
    """What the latents of some data are, before they are made; of `images` of them, if not all.

    Raises `OvertoneError` for images and a VAE that do not fit each other.
    """
    if data.channels != vae.image_channels or not divides(data.resolution, vae.factor):
        raise OvertoneError(
            f"the VAE takes images with {vae.image_channels} channels in multiples of {vae.factor}"
            f" px, not {shown(data.resolution)} px with {data.channels} channels."
        )
    if images is not None and images < 1:
        raise OvertoneError(f"at least one image has to be encoded, not {images}.")
    if data.endless and images is None:
        raise OvertoneError(
            f"{data.name} never ends: say how many of its images to encode (--images, in training"
            " --encoded-images)."
        )
    return LatentsIndex(
        images=public_name(data.name),
        image_fingerprint=data.fingerprint,
        image_resolution=data.resolution,
        image_channels=data.channels,
        count=min(len(data), images or len(data)) * (2 if mirror else 1),
        mirrored=mirror,
        vae=vae.digest,
        resolution=divided(data.resolution, vae.factor),
        channels=vae.channels,
        scaling_factor=vae.scaling_factor,
        shift_factor=vae.shift_factor,
        class_names=tuple(data.class_names),
    )


def check_folder(folder: Path, index: LatentsIndex) -> None:
    """Raise `OvertoneError` for a directory that latents can't be encoded into."""
    check_claim(folder / INDEX_FILE, index, fingerprint_of, "latents")


def encode(
    data: ImageData, vae: VAE, folder: Path, index: LatentsIndex, *, show: bool = True
) -> LatentData:
    """The latents of `data` in `folder`: made now, or what is missing of them. Every process of a
    job has to call it.

    Runs without autocast: it is done once, and rounding would stay in the data. Raises
    `OvertoneError` if the folder holds latents of another VAE, resolution or data, naming the
    difference.
    """
    among, file = processes(), folder / INDEX_FILE
    if among.is_main:
        claim(file, index, fingerprint_of, "latents")
    among.wait()
    index = settings.load(LatentsIndex, storage.read_json(file), str(file))
    shards = shards_of(folder, index)
    mine = shards.missing(among)
    images = data.spread(index.count // 2 if index.mirrored else index.count)
    total, done = sum(len(shards.rows(number)) for number in mine), 0
    shown = show and among.is_main and bool(mine)
    with Display(total, shown=shown, what="images encoded") as display:
        for number in mine:
            for count in _encode_block(data, images, vae, shards, index, number):
                done += count
                display.advance(done)
            display.report(done)
    among.wait()
    return LatentData(folder)


def _encode_block(
    data: ImageData,
    sources: Sequence[int],
    vae: VAE,
    shards: Shards,
    index: LatentsIndex,
    number: int,
) -> Iterator[int]:
    """Makes a file from the images `sources` of the data; yields the number in each batch of it."""
    device, half = next(vae.parameters()).device, len(sources)
    rows = shards.rows(number)
    batch = max(1, min(BATCH, DECODED_PIXELS // math.prod(sides(index.image_resolution))))
    moments, labels = [], []
    for at in range(0, len(rows), batch):
        part = rows[at : at + batch]
        pixels, own = data.fetch([sources[row % half] for row in part])
        images = to_unit(pixels)
        flipped = torch.tensor([row >= half for row in part])
        images[flipped] = images[flipped].flip(3)
        with torch.no_grad():
            pair = torch.cat(vae.encode(images.to(device)), dim=1)
        moments.append(pair.to("cpu", torch.float16))
        labels.append(own)
        yield len(part)
    shards.write(number, {"moments": torch.cat(moments), "labels": torch.cat(labels)})
