"""Photographs that come with scikit-learn and scikit-image, cropped at random."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from overtone.data.images import ImageData, Pixels
from overtone.errors import OvertoneError
from overtone.sizes import Resolution, shown, sides

LARGEST = 3
"""how many times longer than the image's sides those of a crop are, at most"""
TEST_SHARE = 4
"""one in so many columns of a photograph, those at its right, is the test split's"""
TEST_CROPS = 100
"""images of the test split, of each photograph"""


class Photograph(NamedTuple):
    """Where a photograph is found, and what its class is called."""

    name: str
    package: str
    file: str

    @property
    def path(self) -> Path | None:
        """The file, in the installed package, which is not imported; None where there is none."""
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            return None
        path = Path(spec.origin).parent / self.file
        return path if path.is_file() else None


def _of_scikit_image(*files: str) -> Iterator[Photograph]:
    for file in files:
        yield Photograph(file.partition(".")[0].replace("_", " "), "skimage", f"data/{file}")


PHOTOGRAPHS = (
    Photograph("temple", "sklearn", "datasets/images/china.jpg"),
    Photograph("flower", "sklearn", "datasets/images/flower.jpg"),
    *_of_scikit_image(
        "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png",
        "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png",
        "rocket.jpg",
    ),
)  # fmt: skip
"""Those of scikit-image are the photographs in its wheel; the others it would download."""


class Photos(ImageData):
    """Random crops of photographs, made smaller; as many as are asked for.

    Image i is a function of (seed, split, i) alone, and its class, the photograph, is i modulo
    their number. A crop has the image's proportions and up to three times its sides. The rightmost
    quarter of each photograph is the test split's, and no crop for training reaches into it. Grey
    photographs are grey in colour too. Raises `OvertoneError` for images that are too large.
    """

    endless = True

    def __init__(
        self, resolution: Resolution, channels: int = 3, split: str = "train", seed: int = 0
    ) -> None:
        if channels not in (1, 3):
            raise OvertoneError(f"builtin:photos has 1 or 3 channels, not {channels}.")
        found = [photograph for photograph in PHOTOGRAPHS if photograph.path is not None]
        if not found:
            raise OvertoneError("builtin:photos has no photographs: pip install scikit-image.")
        self.name, self.split, self.seed = "builtin:photos", split, seed
        self.resolution, self.channels = resolution, channels
        self.class_names = tuple(photograph.name for photograph in found)
        self.regions = [_region(photograph, channels, split) for photograph in found]
        self.resize_rule = f"random crops of 1 to {LARGEST} times the sides, Lanczos"
        # Both splits have the limit of the test split, whose regions are narrower.
        least = [_region(photograph, channels, "test").shape for photograph in found]
        highest, widest = min(shape[0] for shape in least), min(shape[1] for shape in least)
        rows, columns = sides(resolution)
        if rows > highest or columns > widest:
            raise OvertoneError(
                f"builtin:photos has images of at most {highest} px high and {widest} px wide, not"
                f" of {shown(resolution)} px: choose a smaller --resolution."
            )
        if len(found) < len(PHOTOGRAPHS):
            self.notes = (
                f"the {len(found)} photographs of scikit-learn; pip install scikit-image brings"
                f" {len(PHOTOGRAPHS) - len(found)} more",
            )
        self.fingerprint = (
            f"photos 1 {resolution} {channels} {split} {seed} {' '.join(self.class_names)}"
        )

    def __len__(self) -> int:
        return TEST_CROPS * self.num_classes if self.split == "test" else 2**31

    def fetch(self, indices: Sequence[int]) -> tuple[Pixels, Int[Tensor, " batch"]]:
        images = np.stack([self.crop(int(i)) for i in indices])
        return torch.from_numpy(images), self.classes(indices)

    def classes(self, indices: Sequence[int]) -> Int[Tensor, " batch"]:
        return torch.tensor([int(i) % self.num_classes for i in indices])

    def crop(self, index: int) -> np.ndarray:
        """Image `index` as (channels, height, width) uint8."""
        # Only random(), whose sequence Python keeps from version to version.
        draw = random.Random(f"{self.seed} {self.split} {index}").random
        region = self.regions[index % self.num_classes]
        rows, columns = sides(self.resolution)
        most = min(region.shape[0] / rows, region.shape[1] / columns, LARGEST)
        scale = math.exp(draw() * math.log(most))
        height, width = round(rows * scale), round(columns * scale)
        top = int(draw() * (region.shape[0] - height + 1))
        left = int(draw() * (region.shape[1] - width + 1))
        part = Image.fromarray(region[top : top + height, left : left + width])
        pixels = np.asarray(part.resize((columns, rows), Image.Resampling.LANCZOS))
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


@lru_cache(maxsize=64)
def _region(photograph: Photograph, channels: int, split: str) -> np.ndarray:
    """The columns of a photograph that are a split's."""
    assert photograph.path is not None
    with Image.open(photograph.path) as image:
        pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    last = pixels.shape[1] // TEST_SHARE
    return pixels[:, -last:] if split == "test" else pixels[:, :-last]
