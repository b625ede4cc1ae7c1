"""The contract of feature extractors: images in, features out."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from overtone.data.images import Pixels
from overtone.errors import OvertoneError
from overtone.precision import exact

PLACE_CHANNELS, PLACE_SIDE = 7, 17
"""channels and pixels a side of the spatial features: 2023 numbers at most, as ADM's
evaluator has them"""


class Features(NamedTuple):
    """What an extractor says of a batch, on the host."""

    vectors: Float[Tensor, "batch features"]
    logits: Float[Tensor, "batch classes"] | None = None
    """The class scores."""
    spatial: Float[Tensor, "batch spatial_dims"] | None = None
    """Features that keep their place in the image, for the spatial Fréchet distance."""


class Extractor(ABC):
    """Turns uint8 images into feature vectors, in float32.

    `digest` identifies the weights: numbers from extractors with different digests don't compare.
    """

    name: str
    digest: str
    dims: int
    knows_classes: bool = False
    """Whether the class scores are for the classes of the data."""

    @abstractmethod
    def __call__(self, pixels: Pixels) -> Features: ...


def place_features(maps: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch n"]:
    """The first 7 channels of feature maps, flattened with the channel last, as ADM's evaluator has
    them. Maps of more than 17 pixels a side, which its are, are averaged to as many."""
    kept = maps[:, :PLACE_CHANNELS]
    height, width = kept.shape[2:]
    if max(height, width) > PLACE_SIDE:
        kept = F.adaptive_avg_pool2d(kept, (min(height, PLACE_SIDE), min(width, PLACE_SIDE)))
    return kept.permute(0, 2, 3, 1).flatten(1)


def as_rgb(pixels: Pixels, whose: str) -> Pixels:
    """Grey images as RGB, and RGB as it is. Raises `OvertoneError` for two channels."""
    if pixels.shape[1] not in (1, 3):
        raise OvertoneError(f"{whose} takes grey images and RGB, not {pixels.shape[1]} channels.")
    return pixels.expand(-1, 3, -1, -1)


@contextlib.contextmanager
def output_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """A list of what a module returns within the block."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, __, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


def by_blocks(
    network: nn.Module,
    extract: Callable[[Tensor], Features],
    pixels: Pixels,
    size: int,
    prepare: Callable[[Pixels], Tensor] = lambda pixels: pixels,
) -> Features:
    """The features of images on the host, computed where the network is, so many images at a time:
    a large network takes bounded memory.

    They are computed in float32 and without gradients, whatever the caller computes in. `prepare`
    is what is done to a block on the host.
    """
    device, said = next(network.parameters()).device, []
    with torch.no_grad(), exact(device):
        for block in pixels.split(size):
            found = extract(prepare(block).to(device))
            sizes = [0 if part is None else part.shape[1] for part in found]
            # One copy brings all of them to the host.
            said.append(torch.cat([part for part in found if part is not None], dim=1).cpu())
    parts = torch.cat(said).split(sizes, dim=1)
    vectors, *others = (part.contiguous() for part in parts)
    return Features(vectors, *(part if part.shape[1] else None for part in others))
