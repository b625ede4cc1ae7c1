"""Tensors of pixels as pictures, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps, UnidentifiedImageError
from torch import Tensor

from overtone.data.converting import MOST_PIXELS, to_mode
from overtone.data.images import Pixels
from overtone.data.reading import open_image
from overtone.errors import OvertoneError, unknown
from overtone.regular import open_regular

FINISHES = {
    "relay-imagenet": ((ImageEnhance.Brightness, 1.06),),
    "relay-celebahq": (
        (ImageEnhance.Contrast, 0.9),
        (ImageEnhance.Brightness, 1.05),
        (ImageEnhance.Color, 0.99),
    ),
}
"""What the published generators of relay diffusion do to finished images before they save them."""


def read_picture(path: Path, name: str | None = None, most: int = MOST_PIXELS) -> Image.Image:
    """The picture in a file, upright. Raises `OvertoneError`, which names it `name`, for a file
    that holds none, and for one of more than `most` pixels, before it is decoded."""
    try:
        with open_regular(path) as file:
            stored = open_image(file)
            if stored.width * stored.height > most:
                raise ValueError(
                    f"{stored.width:,} x {stored.height:,} pixels, and {most:,} are the most"
                )
            picture: Any = ImageOps.exif_transpose(stored)
            picture.load()
            return picture
    except Exception as error:  # damaged files make Pillow raise almost anything
        known = not isinstance(error, UnidentifiedImageError)
        reason = str(error).strip().splitlines() if known else ["it is not a picture"]
        raise OvertoneError(
            f"{name or path} can't be read ({(reason or ['no image'])[0]})."
        ) from None


def to_pil(image: Tensor) -> Image.Image:
    """A uint8 tensor (channels, height, width) as a picture, grey or RGB."""
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def grid(images: Pixels, columns: int, gap: int = 0) -> Image.Image:
    """Images side by side, `columns` in a row, with `gap` dark grey pixels between them."""
    rows = -(-len(images) // columns)
    _, channels, height, width = images.shape
    shape = rows * (height + gap) - gap, columns * (width + gap) - gap
    sheet = images.new_full((channels, *shape), 64)
    for i, image in enumerate(images):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        sheet[:, y : y + height, x : x + width] = image
    return to_pil(sheet)


def finished(images: Pixels, name: str) -> Pixels:
    """uint8 images after one of `FINISHES`, by Pillow's `ImageEnhance`. Raises `OvertoneError` for
    another name."""
    if name not in FINISHES:
        raise unknown("finish", name, FINISHES)
    done = []
    for image in images.cpu():
        picture = to_pil(image)
        for enhance, factor in FINISHES[name]:
            picture = enhance(picture).enhance(factor)
        done.append(picture)
    return pixels_of(done, images.shape[1])


def pixels_of(pictures: Sequence[Image.Image], channels: int) -> Pixels:
    """Pictures of one size as a uint8 tensor, read as training images are. Raises `OvertoneError`
    for what is no picture, and for different sizes."""
    if any(not isinstance(picture, Image.Image) for picture in pictures):
        raise OvertoneError("images are a tensor, or Pillow's pictures: Image.fromarray makes one.")
    sizes = sorted({picture.size for picture in pictures})
    if len(sizes) != 1:
        said = ", ".join(f"{width} x {height}" for width, height in sizes) or "none"
        raise OvertoneError(f"the pictures must all have one size, and these are {said}.")
    arrays = []
    for number, picture in enumerate(pictures):
        try:
            picture, _ = to_mode(ImageOps.exif_transpose(picture), "L" if channels == 1 else "RGB")
        except ValueError as error:
            raise OvertoneError(f"picture {number} can't be read ({error}).") from None
        arrays.append(np.asarray(picture).reshape(picture.height, picture.width, channels))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
