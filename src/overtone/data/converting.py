"""A picture as it is stored, and what makes an image of it: upright, in one mode, of one size."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from overtone.data.rules import Crop, colour_of
from overtone.errors import OvertoneError
from overtone.sizes import Resolution, shown, sides

MADE_GREY = "colour made grey"
MOST_PIXELS = 2**27
"""of a picture: 11,585 pixels a side"""
COMPARED, COMPRESSED = 256, 16
"""pixels a side at which colours are looked for, and the difference of channels that is none"""
STRIP = 256
"""rows of a picture whose bytes are copied at a time"""


def resized(image: Image.Image, resolution: Resolution, crop: Crop, name: str) -> Image.Image:
    """The part of a picture that a rule keeps, made as small as the resolution. Raises
    `OvertoneError` for a picture that is smaller, or has other proportions where none are cut."""
    (height, width), (wide, high) = sides(resolution), image.size
    if wide < width or high < height:
        raise OvertoneError(
            f"{name} is {wide} x {high}, smaller than the resolution {shown(resolution)}."
        )
    scale = min(wide / width, high / height)  # the largest part of the proportions wanted
    part = min(wide, round(width * scale)), min(high, round(height * scale))
    if crop == "none" and (wide - part[0] > scale or high - part[1] > scale):
        raise OvertoneError(
            f"{name} is {wide} x {high}, which does not have the proportions of"
            f" {width} x {height}: --crop fit cuts off what is too much."
        )
    if crop == "none":
        part = image.size
    left, top = (wide - part[0]) // 2, (high - part[1]) // 2
    box = (left, top, left + part[0], top + part[1])
    if part == (width, height):
        return image.crop(box)
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box)


def digest_of_picture(image: Image.Image) -> int:
    """64 bits that tell a picture from others, whatever file it is in. It is read strip by strip,
    for the memory that a copy takes."""
    check_pixels(image)
    if image.mode == "P":  # the same numbers mean other colours under another palette
        image = image.convert("RGBA")
    digest = hashlib.blake2b(f"{image.width} x {image.height}".encode(), digest_size=8)
    for top in range(0, image.height, STRIP):
        box = (0, top, image.width, min(top + STRIP, image.height))
        digest.update(image.crop(box).tobytes())
    return int.from_bytes(digest.digest(), "big")


def converted(image: Image.Image, mode: str, background: str) -> tuple[Image.Image, list[str], int]:
    """The image upright and in a mode, what that took, and a digest of it as it was."""
    done = ["first of several frames"] if getattr(image, "is_animated", False) else []
    # Of several channels with 16 bits Pillow keeps the upper 8, and tells of them before that.
    cut = re.search(r"'(?!I;)\w+;16|SGI16", str(getattr(image, "tile", "")))
    contents = digest_of_picture(image)
    image, conversions = to_mode(upright(image), mode, background)
    if cut is not None:
        extrema: Any = image.getextrema()
        high = max(extrema if mode == "L" else (pair[1] for pair in extrema))
        done.append("16 bits cut to 8" + _dark(high.bit_length() + 8))
    return image, done + conversions, contents


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its camera says. Raises `ValueError` for a picture that would take far
    more memory than its file, or more than is sensible."""
    check_pixels(image)
    return ImageOps.exif_transpose(image)


def check_pixels(image: Image.Image) -> None:
    """Raises `ValueError` for a picture of more pixels than is sensible, before it is decoded."""
    pixels = image.width * image.height
    if pixels > MOST_PIXELS:
        raise ValueError(f"{pixels:,} pixels, and {MOST_PIXELS:,} are the most")


def to_mode(
    image: Image.Image, mode: str, background: str = "white"
) -> tuple[Image.Image, list[str]]:
    """Any image as "RGB" or "L" with 8 bits, and what that took: transparency is laid on a colour,
    16 bits are scaled to 8, CMYK and the like converted, colour made grey or grey colour."""
    conversions = []
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known: convert it to 8 bits")
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ValueError(f"whole numbers from {low} to {high}: convert it to 8 bits")
        image = Image.fromarray((values / 257).round().clip(0, 255).astype(np.uint8))
        conversions.append("16 bits scaled to 8" + _dark(high.bit_length()))
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            conversions.append(f"transparency laid on {background}")
        paper = Image.new("RGBA", image.size, colour_of(background))
        image = Image.alpha_composite(paper, image).convert("RGB")
    if image.mode not in ("1", "L", "P", "RGB"):
        conversions.append(f"{image.mode} converted to RGB")
    if grey and mode == "RGB":
        conversions.append("grey made RGB")
    if not grey and mode == "L" and has_colours(image):
        conversions.append(MADE_GREY)
    return image.convert(mode), conversions


def has_colours(image: Image.Image) -> bool:
    """Whether a picture is anything but grey, whatever its mode: in more than a pixel of a thousand
    the channels differ by more than compression makes of a grey."""
    if image.mode in ("1", "L", "LA") or image.mode.startswith(("I", "F")):
        return False
    small = image.convert("RGB")
    small.thumbnail((COMPARED, COMPARED))
    pixels = np.asarray(small).astype(np.int16)
    return bool((np.ptp(pixels, axis=2) > COMPRESSED).mean() > 0.001)


def _dark(bits: int) -> str:
    """Of 16-bit pixels whose brightest has no more than `bits`."""
    what = f"{bits} bits" if bits > 1 else "1 bit or none"
    dark = f", as if 65,535 were white, though the brightest pixel has {what}"
    return dark if bits < 16 else ""
