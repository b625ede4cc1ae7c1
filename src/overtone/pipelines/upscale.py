"""Pictures of any size enlarged by a relay's second stage, tile by tile."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from overtone.data.images import to_pixels, to_unit
from overtone.denoisers.tiled import starts_of
from overtone.errors import OvertoneError
from overtone.pipelines.edit import pictures_of
from overtone.pipelines.pictures import to_pil
from overtone.pipelines.request import Request
from overtone.pipelines.stages import InTurn
from overtone.pipelines.starts import RelayStart
from overtone.sizes import by, sides

AT_A_TIME = 16
"""tiles that are computed at a time"""
MOST_PIXELS = 2**26
"""of an enlarged picture, of which some ten copies are in memory at a time: 8 GB in colour"""


@dataclass(frozen=True)
class Canvas:
    """An image that is larger than the network's, and how it is cut into tiles."""

    height: int
    width: int
    overlap: int
    """The number of pixels by which tiles overlap."""
    unit: int
    """Tiles begin at multiples of this number of pixels."""
    at_a_time: int = AT_A_TIME


def upscale_tiled(
    pipe: Any,
    picture: Image.Image | Tensor,
    class_label: Any = None,
    seed: int = 0,
    *,
    overlap: int | None = None,
    at_a_time: int = AT_A_TIME,
    told: Callable[[Iterator[Any], int], Iterator[Any]] = lambda steps, count: steps,
    **asked: Any,
) -> Image.Image:
    """A picture enlarged by a relay's second stage, whatever its size.

    Arguments:
        picture: a picture, read as training images are, or a tensor (1, channels, height, width).
        class_label: its class, by number or name. Where it is left out, a conditional model is
            asked for no class, which it was trained with if labels were dropped.
        overlap: pixels of the picture by which tiles overlap; half of a tile if left out.
        told: is given the steps and their number, and hands the steps on.
        asked: whatever else a `Request` takes.

    Raises `OvertoneError` for a model that begins with noise, for an operator, for an overlap that
    is a whole tile or more, and for a conditional model that knows no class that stands for none.
    """
    upscale = pipe.process.upscale
    if upscale == 1:
        raise OvertoneError("this model begins with noise: a relay's second stage upscales.")
    if pipe.num_classes and class_label is None:
        class_label, asked = 0, asked | of_no_class(pipe, asked)
    request = Request([seed], None if class_label is None else [class_label], **asked)
    sampler: Any = pipe.sampler_of(request)
    if sampler.is_operator:
        raise OvertoneError(
            "an operator makes an image in one evaluation, so that its tiles can't be made to"
            " agree on the way: upscale with the model that it was distilled from."
        )
    low = pictures_of(picture, pipe.channels)
    low = to_unit(low) if low.dtype == torch.uint8 else low.float()
    height, width = low.shape[2:]
    check_size(pipe, width, height)
    tile = [side // upscale for side in sides(pipe.resolution)]
    overlap = min(tile) // 2 if overlap is None else overlap
    # What is smaller than a tile is continued beyond its edges, and cut to size again.
    high, wide = max(height, tile[0]), max(width, tile[1])
    padded = F.pad(low, (0, wide - width, 0, high - height), mode="replicate")
    own = copy.copy(pipe)
    own.start = RelayStart(InTurn(padded))
    own.canvas = Canvas(upscale * high, upscale * wide, upscale * overlap, upscale, at_a_time)
    for size, side in zip((high, wide), tile, strict=True):
        try:
            starts_of(size, side, overlap)
        except ValueError as error:
            raise OvertoneError(
                f"{error}: the model takes pictures of {by(tuple(tile))} px at a time."
            ) from None
    for step in told(own.path(request), len(sampler.visited)):
        x = step.x
    if not torch.isfinite(x).all():
        raise OvertoneError("the model made an image that is not finite: its weights are damaged.")
    return to_pil(to_pixels(x)[0, :, : upscale * height, : upscale * width].cpu())


def check_size(pipe: Any, width: int, height: int) -> None:
    """Raises `OvertoneError` for a picture whose enlargement takes too much memory."""
    wide, high = (pipe.process.upscale * side for side in (width, height))
    if wide * high > MOST_PIXELS:
        raise OvertoneError(
            f"a picture of {width:,} x {height:,} px becomes one of {wide:,} x {high:,}, which is"
            f" more than {MOST_PIXELS:,} pixels: cut it into parts, or make it smaller."
        )


def of_no_class(pipe: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """What is asked for where the class is not known: guidance whose scale is 0 leaves the estimate
    of no class alone."""
    guided = asked.get("guidance_scale") is not None or asked.get("guide") is not None
    if guided or not pipe.denoiser.has_null_class:
        why = "and guidance needs one" if guided else "and none that stands for no class"
        raise OvertoneError(
            f"this model has {pipe.num_classes} classes, {why}: say what the picture shows."
        )
    return {"guidance_scale": 0.0}
