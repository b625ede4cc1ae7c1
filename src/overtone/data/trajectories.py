"""Trajectories of a teacher, from noise to image, solved once and kept: a directory of

    trajectories.json     the teacher, its solver, the times that are kept
    00000.safetensors     states, classes and checksums of the first seeds
    test/                 the same for seeds that are held out

States are in the variance-preserving frame, x / sqrt(1 + sigma^2), the start among them. A file is
a function of the teacher, the settings and its seeds alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from overtone import settings, storage
from overtone.data.images import ImageData
from overtone.data.shards import Shards
from overtone.errors import OvertoneError
from overtone.processes.noise import SeededNoise
from overtone.processes.vp_frame import check_levels
from overtone.ranges import Count, LevelOrZero, Size, SizeOrNone, Whole, check_fields
from overtone.sizes import Resolution, sides

INDEX_FILE = "trajectories.json"


@dataclass(frozen=True)
class TrajectoriesIndex:
    """The contents of trajectories.json."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    teacher: str
    """The public name of the teacher."""
    teacher_digest: str
    """The digest of the teacher's weights."""
    made_with: dict[str, Any]
    """The teacher's solver, guidance and preconditioning."""
    sigmas: tuple[LevelOrZero, ...]
    """The falling noise levels of the states: the start's first, the image's 0 last."""
    count: Count
    first_seed: Whole
    """The seed of the first trajectory; trajectory k has first_seed + k."""
    resolution: Resolution
    channels: Size
    class_names: tuple[str, ...] = ()
    num_classes: SizeOrNone = 0
    """The number of classes. Seed s has class s modulo this number; 0 means no classes."""
    dtype: Literal["float16", "float32"] = "float16"
    block: Count = 1024
    """The number of trajectories in a file."""
    environment: dict[str, Any] = field(default_factory=dict)
    """The code, versions, hardware and threads with which the directory was begun."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.first_seed < 0 or self.first_seed + self.count > 2**32:
            raise ValueError(f"seeds are in [0, 2^32), and first_seed is {self.first_seed}")
        check_levels(self.sigmas)

    @property
    def bytes_each(self) -> int:
        """Of one trajectory on the disk."""
        values = len(self.sigmas) * self.channels * math.prod(sides(self.resolution))
        return values * (2 if self.dtype == "float16" else 4) + 16


def fingerprint_of(index: TrajectoriesIndex) -> str:
    """Changes with anything that a file depends on; not with how many there are."""
    facts = settings.dump(index)
    del facts["teacher"], facts["count"], facts["environment"]
    return settings.fingerprint(facts)


def shards_of(folder: Path, index: TrajectoriesIndex) -> Shards:
    """The files of trajectories in a directory."""
    return Shards(
        folder,
        index.count,
        index.block,
        "states",
        (len(index.sigmas), index.channels, *sides(index.resolution)),
        "overtone distill collect into the same directory makes what is missing, and with --repair"
        " what is damaged",
        fingerprint_of(index),
    )


def checksums(states: Tensor, labels: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """CRC-32 of each trajectory's bytes, its class's included."""
    parts = zip(states.contiguous().numpy(), labels.numpy(), strict=True)
    return torch.tensor([zlib.crc32(label.tobytes(), zlib.crc32(row)) for row, label in parts])


class Trajectories(ImageData):
    """Trajectories as training data: `fetch` returns states (batch, times, channels, height,
    width)."""

    def __init__(self, index: TrajectoriesIndex, fingerprint: str) -> None:
        self.index = index
        self.name = index.teacher
        self.resolution, self.channels = index.resolution, index.channels
        self.class_names = index.class_names
        self.fingerprint = fingerprint

    @property
    def num_classes(self) -> int:
        return self.index.num_classes

    def clean(
        self, items: Float[Tensor, "batch times channels rows columns"], source: SeededNoise
    ) -> Float[Tensor, "batch times channels rows columns"]:
        return items.float()


class TrajectoryData(Trajectories):
    """The trajectories in a directory, as training data.

    `fetch` returns states (batch, times, channels, height, width) as they are kept, each read
    through a memory map and compared with its checksum. Raises `OvertoneError` for a directory that
    is incomplete or damaged, naming the file. With `most`, only the first so many are taken.
    """

    def __init__(self, folder: Path, most: int | None = None) -> None:
        file = folder / INDEX_FILE
        if not file.exists():
            raise OvertoneError(f"{folder} holds no trajectories: it has no {INDEX_FILE}.")
        index = settings.load(TrajectoriesIndex, storage.read_json(file), str(file))
        self.count = index.count if most is None else min(index.count, most)
        super().__init__(index, f"{fingerprint_of(index)}-{self.count}")
        self.folder = folder
        self.shards = shards_of(folder, index)
        self.labels = self.shards.column("labels")
        self.checksums = self.shards.column("checksums")

    def __len__(self) -> int:
        return self.count

    def fetch(
        self, indices: Sequence[int]
    ) -> tuple[Float[Tensor, "batch times channels rows columns"], Int[Tensor, " batch"]]:
        states = torch.stack([self.shards.row(i, "states") for i in indices])
        labels = self.labels[list(indices)]
        wrong = (checksums(states, labels) != self.checksums[list(indices)]).nonzero()
        if len(wrong):
            number = int(indices[int(wrong[0])]) // self.index.block
            raise self.shards.bad(number, "is damaged (a trajectory's checksum is another)")
        return states, labels
