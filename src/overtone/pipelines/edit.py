"""Sampling that begins with somebody's own pictures, and keeps what a mask says of them.

ImageStart(images, sigma)         SDEdit (Meng et al. 2022, arXiv 2108.01073): the pictures with
                                  noise of level sigma, from where sampling goes on
ImageStart(images, sigma, mask)   the same, where what the mask says is kept: inpainting
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from overtone import settings
from overtone.data.images import to_pixels, to_unit
from overtone.errors import OvertoneError
from overtone.pipelines.pictures import pixels_of, to_pil
from overtone.pipelines.request import Request, check_names, whole_seeds
from overtone.pipelines.stages import FirstStage, InTurn, checked_images
from overtone.pipelines.starts import Holder, NoiseStart, RelayStart, Start
from overtone.processes.gaussian import Process
from overtone.processes.noise import SeededNoise
from overtone.ranges import Level, Repeats
from overtone.samplers.loop import SamplingLoop
from overtone.samplers.repaint import ResamplingSampler
from overtone.sizes import sides

RESAMPLES = 4
"""Under a mask each step is taken so many times, where nothing else is asked for."""


@dataclass(frozen=True)
class ImageStart(Start, kind="image"):
    """Pictures at a noise level, and what of them is kept:

        x = mean(x_0, sigma) + sigma noise

    x_0 the pictures, or their latents. With a mask, the denoiser's estimate of what is kept is the
    picture itself at every step, so that its noise level and its neighbours are right all the way,
    whatever the sampler; and kept pixels are the picture's own in the end. That is inpainting by
    replacement. With `resamples` above 1 each part of the way is taken several times, noise being
    added in between (RePaint, Lugmayr et al. 2022, arXiv 2201.09865), which brings the rest into
    agreement with what is kept.

    Raises `OvertoneError` for pictures or masks of another size than the pipeline's images.
    """

    images: Any = field(default=None, compare=False, metadata={"saved": False})
    """The pictures, or a tensor (count, channels, height, width), uint8 or in [-1, 1]. Seed k
    begins with image k modulo their number."""
    sigma: Level | None = None
    """The noise level that sampling begins at; the sampler takes the next one below it that it
    visits. If it is not given, it is the sampler's own, where nothing of the pictures is left but
    what the mask keeps."""
    mask: Any = field(default=None, compare=False, metadata={"saved": False})
    """The mask is (height, width) or (count, height, width), true where the picture is kept, or a
    picture that is white there. If it is not given, the picture is kept nowhere."""
    resamples: Repeats = 1
    """How many times each part of the trajectory is repeated under a mask. 1 means replacement
    alone."""
    jump: Repeats = 1
    """The number of steps in each part that is repeated."""
    in_turn: bool = field(default=False, compare=False, metadata={"saved": False})
    """Whether the i-th of the seeds begins with image i, whatever the seed."""
    base: Start = field(default_factory=NoiseStart, compare=False, metadata={"saved": False})
    """What the rest of the image begins with where `sigma` is not given."""
    level: Level | None = field(default=None, compare=False, metadata={"saved": False})
    """The noise level that the sampler begins at, once it is known."""
    x_0: Any = field(default=None, compare=False, metadata={"saved": False})
    """The pictures as the sampler knows them, in [-1, 1] or as latents, once a pipeline is
    known."""
    kept: Any = field(default=None, compare=False, metadata={"saved": False})
    """The mask in the size of x_0."""

    def checked(self, pipe: Holder) -> ImageStart:
        """The same with tensors of the pipeline's size. Raises `OvertoneError` for others."""
        if self.images is None:
            raise OvertoneError("an ImageStart begins with pictures: give it images.")
        images = pictures_of(self.images, pipe.channels)
        wanted = pipe.channels, *sides(pipe.resolution)
        if tuple(images.shape[1:]) != wanted:
            raise OvertoneError(
                f"the pictures are {_size(images)}, and the model's images"
                f" {wanted[1]} x {wanted[2]} px with {wanted[0]} channels: resize them. A tensor or"
                " an array of pictures is (count, channels, height, width)."
            )
        images = images if images.dtype == torch.uint8 else images.float()
        mask = None if self.mask is None else _mask(self.mask, images)
        if self.sigma is None and mask is None:
            raise OvertoneError(
                "an ImageStart needs a sigma or a mask: else nothing of the pictures is kept."
            )
        if pipe.vae is None and pipe.image_resolution is not None:
            raise OvertoneError("pictures become latents by a VAE: set pipe.vae first (--vae).")
        base = self.base if self.sigma is not None else self.base.joined(pipe)
        return replace(self, images=images, mask=mask, base=base)

    def joined(self, pipe: Holder) -> Start:
        own = self.checked(pipe)
        x_0 = to_unit(own.images) if own.images.dtype == torch.uint8 else own.images
        kept = own.mask
        if pipe.vae is not None:
            with torch.no_grad():
                x_0 = pipe.vae.latents(x_0)
            if kept is not None:  # a latent is kept where all of its pixels are
                kept = -F.max_pool2d(-kept.float(), kept.shape[-1] // x_0.shape[-1])
        return replace(own, x_0=x_0, kept=kept)

    @property
    def without_pictures(self) -> Start:
        return self.base

    @property
    def stage(self) -> FirstStage | None:
        return self.base.stage if self.sigma is None else None

    def begun(self, sampler: SamplingLoop) -> tuple[Start, SamplingLoop]:
        if self.mask is not None and sampler.is_operator:
            raise ValueError(
                "an operator makes an image in one evaluation, without steps at which a mask could"
                " be applied: take the model that it was distilled from"
            )
        if self.sigma is not None:
            sampler = sampler.below(self.sigma)
        level = sampler.visited[0]
        if self.mask is not None and self.resamples > 1:
            sampler = _going_back(sampler, self.resamples, self.jump)
        return replace(self, level=level), sampler

    def source(self, seeds: Sequence[int], resolution: int | tuple[int, int]) -> SeededNoise:
        return self.base.source(seeds, resolution)

    def __call__(
        self,
        like: Tensor,
        process: Process,
        sigma: float,
        seeds: Sequence[int],
        class_labels: Tensor | None,
        source: SeededNoise,
    ) -> Tensor:
        assert self.level is not None
        x_0 = self._picked(self.x_0, seeds).to(like)
        if self.sigma is not None:
            noise = process.noise(like, source)
            return process.mean(x_0, self.level).add(noise, alpha=self.level)
        rest = self.base(like, process, sigma, seeds, class_labels, source)
        noise = process.noise(like, source)
        kept = process.mean(x_0, self.level).add(noise, alpha=self.level)
        return torch.where(self._picked(self.kept, seeds).to(like) > 0, kept, rest)

    def known(self, like: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        if self.kept is None:
            return None
        mask = self._picked(self.kept, seeds).to(like) > 0
        return self._picked(self.x_0, seeds).to(like), mask

    def finished(self, pixels: Tensor, seeds: Sequence[int]) -> Tensor:
        if self.mask is None:
            return pixels
        images = self._picked(self.images, seeds)
        images = images if images.dtype == torch.uint8 else to_pixels(images)
        mask = self._picked(self.mask, seeds).to(pixels.device)
        return torch.where(mask, images.to(pixels.device), pixels)

    def _picked(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        if len(rows) == 1:
            return rows.expand(len(seeds), *rows.shape[1:])
        if not self.in_turn:
            return rows[[seed % len(rows) for seed in seeds]]
        if len(rows) != len(seeds):
            raise OvertoneError(
                f"{len(rows)} pictures for {len(seeds)} seeds: give one seed for each picture."
            )
        return rows

    def facts(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for part in (self.images, self.mask):
            if part is not None:
                digest.update(part.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return settings.dump(self) | {"pictures": digest.hexdigest()[:16]}

    def write_into(self, folder: Path, dtype: Any = None) -> None:
        raise OvertoneError(
            "the pictures that a pipeline begins with can't be saved: set its start to a NoiseStart"
            " or a RelayStart first."
        )


def upscaled(
    pipe: Any,
    images: Tensor | Image.Image | Sequence[Image.Image],
    class_labels: Any = None,
    seeds: Sequence[int] | None = None,
    **asked: Any,
) -> list[Image.Image]:
    """`Pipeline.upscale`, for any pipeline."""
    if pipe.process.upscale == 1:
        raise OvertoneError("this model begins with noise: a relay's second stage upscales.")
    images, seeds = _asked(pipe, images, class_labels, seeds)
    if len(seeds) != len(images):
        raise OvertoneError(
            f"there are {len(seeds)} seeds for {len(images)} images: give one seed for each image."
        )
    own = copy.copy(pipe)
    own.start = RelayStart(InTurn(images))
    return own(seeds, class_labels, **asked)


def edited(
    pipe: Any,
    images: Tensor | Image.Image | Sequence[Image.Image],
    strength: float = 0.5,
    mask: Any = None,
    class_labels: Any = None,
    seeds: Sequence[int] | None = None,
    resamples: int | None = None,
    **asked: Any,
) -> list[Any]:
    """`Pipeline.edit`, for any pipeline."""
    if not _is_number(strength) or not 0 <= (strength := float(strength)) <= 1:
        raise OvertoneError(f"strength is a number in [0, 1], not {strength!r}.")
    check_names(asked)
    if mask is None and resamples is not None:
        raise OvertoneError("resamples goes with a mask: without one there is nothing to keep.")
    pixels, seeds = _asked(pipe, images, class_labels, seeds)
    if len(pixels) not in (1, len(seeds)):
        raise OvertoneError(
            f"{len(seeds)} seeds for {len(pixels)} images: give one seed for each image."
        )
    mask = None if mask is None else _mask(mask, pixels)
    request = Request(seeds, class_labels, **asked)
    labels, sampler = pipe.labels(request), pipe.sampler_of(request)
    base = pipe.start.without_pictures
    try:
        if sampler.is_operator and 0 < strength < 1:
            sampler.below(strength)  # which says why not
        sigma = strength_sigma(sampler, strength) if strength else 1.0
        resamples = _resamples(pipe, sampler, mask) if resamples is None else resamples
        start = ImageStart(pixels, sigma, mask, resamples, in_turn=True, base=base)
        if strength:
            start.begun(sampler)
    except ValueError as error:
        raise OvertoneError(f"{error}.") from None
    own = copy.copy(pipe)
    if sigma is None and mask is None:
        own.start = base
        return own(seeds, labels, **asked)
    start.checked(pipe)
    if not strength:
        shown = pixels if pixels.dtype == torch.uint8 else to_pixels(pixels)
        made = [to_pil(image) for image in shown.expand(len(seeds), -1, -1, -1).cpu()]
        return [[image] for image in made] if request.return_trajectory else made
    made = []
    for at in range(0, len(seeds), request.batch_size):
        part = slice(at, at + request.batch_size)
        own.start = replace(start, images=_of(pixels, part), mask=_of(mask, part))
        made += own(seeds[part], None if labels is None else labels[part], **asked)
    return made


def _going_back(sampler: Any, resamples: int, jump: int = 1) -> SamplingLoop:
    if not sampler.takes_steps:
        raise ValueError(
            f"a {type(sampler).__name__} can't go back to a higher noise level: take resamples 1,"
            " which is replacement"
        )
    return ResamplingSampler(sampler, resamples, jump)


def _of(rows: Tensor | None, part: slice) -> Tensor | None:
    return rows if rows is None or len(rows) == 1 else rows[part]


def _resamples(pipe: Any, sampler: SamplingLoop, mask: Any) -> int:
    """As many as are usual, where the sampler and the process can go back; else 1."""
    if mask is None:
        return 1
    try:
        _going_back(sampler, RESAMPLES).check_process(pipe.process)
    except ValueError:
        return 1
    return RESAMPLES


def _asked(
    pipe: Any, images: Any, class_labels: Any, seeds: Sequence[int] | None
) -> tuple[Tensor, list[int]]:
    """Somebody's pictures as a checked tensor, and a seed for each unless there are some."""
    images = pictures_of(images, pipe.channels)
    if pipe.num_classes and class_labels is None:
        raise OvertoneError(
            f"this model has {pipe.num_classes} classes: say what the images show, by class_labels."
        )
    return images, whole_seeds(range(len(images)) if seeds is None else seeds)


def pictures_of(images: Any, channels: int) -> Tensor:
    """Pictures, a picture, an array or a tensor as a checked tensor."""
    if isinstance(images, np.ndarray):
        if images.dtype.kind not in "fiu":
            raise OvertoneError(f"an array of pictures is of numbers, not {images.dtype}.")
        wide = images.dtype.kind == "u" and images.dtype.itemsize > 1  # torch has no arithmetic
        images = torch.from_numpy(images.astype(np.int64) if wide else images.copy())
    if isinstance(images, Tensor):
        return checked_images(images)
    if isinstance(images, str | bytes | Path) or not isinstance(images, Image.Image | Sequence):
        raise OvertoneError(
            f"pictures are Pillow's, or a tensor (count, channels, height, width), not a"
            f" {type(images).__name__}."
        )
    return pixels_of([images] if isinstance(images, Image.Image) else images, channels)


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, bool | str) and np.ndim(value) == 0


def strength_sigma(sampler: SamplingLoop, strength: float) -> float | None:
    """The noise level from which on a sampler takes the share `strength` of its steps, rounded up;
    None for all of them.

    Raises `ValueError` for a strength outside (0, 1] and a sampler without levels.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength is in [0, 1], not {strength}")
    levels = sampler.visited
    steps = math.ceil(round(strength * len(levels), 9))  # 0.28 of 25 are 7, whatever floats say
    return None if steps >= len(levels) else levels[-steps]


def _size(images: Tensor) -> str:
    _, channels, height, width = images.shape
    return f"{height} x {width} px with {channels} channels"


def _mask(mask: Any, images: Tensor) -> Tensor:
    """A mask as booleans (count or 1, 1, height, width)."""
    if isinstance(mask, Image.Image):
        mask = _mask_picture(mask)
    try:
        mask = torch.as_tensor(mask)
        if mask.is_complex():
            raise TypeError
        mask = mask if mask.dtype in (torch.bool, torch.uint8) else mask.double()
    except (TypeError, ValueError, RuntimeError):
        raise OvertoneError(f"a mask is an array or a picture, not {mask!r:.60}.") from None
    mask = mask[None] if mask.dim() == 2 else mask
    if mask.dim() == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    size = tuple(images.shape[2:])
    if mask.dim() != 3 or tuple(mask.shape[1:]) != size or len(mask) not in (1, len(images)):
        raise OvertoneError(
            f"the mask has the shape {tuple(mask.shape)}, and the pictures are {size[0]} x"
            f" {size[1]} px: it is (height, width), or (count, height, width) with one for each."
        )
    if mask.dtype != torch.bool:
        values = set(mask.unique()[:3].tolist())
        if not values <= {0, 1} and not values <= {0, 255}:
            raise OvertoneError(
                "a mask is true, 1 or 255 where the picture is kept, and false or 0 elsewhere, with"
                f" nothing in between: it has the values {sorted(values)}, ..."
            )
    return (mask > 0)[:, None]


def _mask_picture(picture: Image.Image) -> Tensor:
    """Where a picture is lighter than half."""
    if picture.has_transparency_data and (
        picture.convert("RGBA").getchannel("A").getextrema() != (255, 255)
    ):
        raise OvertoneError(
            "the mask is transparent in part: save it as white, where the picture is kept, and"
            " black."
        )
    light = pixels_of([picture], 1)[0, 0]
    if 0 < int(light.max()) <= 127:
        raise OvertoneError(
            f"nothing of the mask is white: its lightest place is {int(light.max())} of 255, and"
            " white is where the picture is kept."
        )
    return light > 127
