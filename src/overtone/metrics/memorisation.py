"""Memorisation: whether images are copies of single training images.

An image is called memorised where its nearest training image is less than a third as far as the
second nearest (Yoon et al. 2023, "Diffusion Probabilistic Models Generalize when They Fail to
Memorize"), in the Euclidean distance of pixels. Of a training image that is there twice both are
equally near, and a copy is not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from overtone.data.images import ImageData, Pixels
from overtone.errors import OvertoneError
from overtone.metrics.parts import NEAREST
from overtone.metrics.sample import Sample
from overtone.metrics.vectors import Vectors, blocks
from overtone.pipelines.pictures import grid
from overtone.sizes import sides

MEMORISED = 1 / 3
LARGEST = 64
"""pixels a side at which images are compared: larger ones are made small"""


@dataclass(frozen=True)
class Nearest:
    """The two nearest training images of each image."""

    distances: Float[Tensor, "images 2"]
    """The root mean square differences of pixels in [0, 1], the nearest first."""
    indices: Int[Tensor, "images 2"]
    """The numbers of the training images in the data."""
    images: Vectors
    """The images as they were compared."""
    data: ImageData
    """The training images."""

    @property
    def ratios(self) -> Float[Tensor, " images"]:
        """The nearest distance over the second; 0 of an exact copy."""
        return ratios_of(self.distances)

    def picture(self, count: int) -> Image.Image:
        """The images with the lowest ratios, one a row, each beside its nearest and its second
        nearest training image."""
        chosen = self.ratios.argsort(stable=True)[:count].tolist()
        size = self.data.channels, *_compared(sides(self.data.resolution))
        found = self.data.fetch(self.indices[chosen].flatten().tolist())[0]
        rows = torch.stack(
            (
                self.images.rows(chosen).view(-1, *size),
                *reduced(found).view(-1, 2, *size).unbind(dim=1),
            ),
            dim=1,
        )
        return grid((rows.flatten(0, 1) * 255).round().to(torch.uint8), 3, gap=1)


def ratios_of(distances: Float[Tensor, "images 2"]) -> Float[Tensor, " images"]:
    """The nearest distance over the second; 0 of an exact copy, which may be there twice."""
    nearest, second = distances.double().unbind(dim=1)
    return torch.where(nearest == 0, 0.0, nearest / second)


def memorised(fake: Sample) -> Sequence[Float[Tensor, " columns"]]:
    """The share of memorised images and the mean ratio, in each column of the halves."""

    def of(distances: Tensor) -> Tensor:
        ratios = ratios_of(distances)
        return torch.stack(((ratios < MEMORISED).double(), ratios), dim=1)

    return (fake.totals(NEAREST, of) / fake.numbers[:, None]).unbind(dim=1)


def reduced(pixels: Pixels) -> Float[Tensor, "batch numbers"]:
    """Images as they are compared: in [0, 1], at most 64 px a side, flattened."""
    images = pixels.float() / 255
    size = _compared((images.shape[2], images.shape[3]))
    if size != images.shape[2:]:
        images = F.interpolate(images, size, mode="area")
    return images.flatten(1)


def _compared(size: tuple[int, int]) -> tuple[int, int]:
    """The height and width at which images are compared."""
    scale = min(1.0, LARGEST / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def check_training(data: ImageData) -> None:
    """Raises `OvertoneError` for data without an end, and for a single training image."""
    if data.endless or len(data) < 2:
        what = "never repeats an image" if data.endless else "has fewer than two images"
        raise OvertoneError(f"memorisation can't be told: {data.name} {what}.")


def nearest_of(images: Vectors, data: ImageData) -> Nearest:
    """The nearest training images of all images; each training image is read once."""
    count = len(images)
    squared = torch.full((count, 2), torch.inf)
    indices = torch.zeros(count, 2, dtype=torch.int64)
    for at, end in blocks(len(data)):
        training = reduced(data.fetch(range(at, end))[0])
        numbers = torch.arange(at, end)
        for start, stop in blocks(count):
            near, who = _two_nearest(images.read(start, stop), training)
            both = torch.cat((squared[start:stop], near), dim=1)
            order = both.topk(2, largest=False).indices
            squared[start:stop] = both.gather(1, order)
            found = torch.cat((indices[start:stop], numbers[who]), dim=1)
            indices[start:stop] = found.gather(1, order)
    return Nearest((squared / images.dims).sqrt(), indices, images, data)


def _two_nearest(images: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances and places of the two nearest, as differences: rounding of a product of
    matrices would hide exact copies."""
    few = min(2, len(training))
    who = torch.cdist(images, training).topk(few, largest=False).indices
    return (images[:, None] - training[who]).square().sum(dim=2), who
