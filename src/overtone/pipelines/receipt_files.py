"""Receipts in files: in a PNG's text, or as JSON."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from overtone import storage
from overtone.data.images import Pixels
from overtone.errors import OvertoneError
from overtone.pipelines.pictures import pixels_of
from overtone.pipelines.receipt import Receipt
from overtone.pipelines.seeds import seeds_of
from overtone.pipelines.sheets import KEY as LAYOUT_KEY
from overtone.pipelines.sheets import Layout, layout_in, layout_text
from overtone.regular import open_regular, read_regular
from overtone.sizes import sides

KEY = "overtone"
"""the key of a PNG's text that is a receipt"""
LARGEST = 2**24
"""bytes of a receipt"""


def save_png(
    image: Image.Image, path: Path, receipt: Receipt | None, layout: Layout | None = None
) -> None:
    """Write a PNG file with its receipt in it, if there is one, whole or not at all; of a grid with
    its layout."""
    text = PngImagePlugin.PngInfo()
    if layout is not None:
        text.add_text(LAYOUT_KEY, layout_text(layout))
    if receipt is not None:
        text.add_text(KEY, json.dumps(receipt.as_json(), separators=(",", ":")), zip=True)
    with storage.new_file(path) as file:
        image.save(file, "PNG", pnginfo=text)


def read_receipt(path: Path) -> Receipt:
    """The receipt in a PNG or JSON file, in an evaluation's report too. Raises `OvertoneError` for
    a file that holds none."""
    try:
        with open_regular(path) as file:
            is_png = file.read(8) == b"\x89PNG\r\n\x1a\n"
    except OSError as error:
        raise OvertoneError(f"{path} can't be read ({error.strerror or error}).") from None
    data = _in_png(path) if is_png else _in_json(path)
    if isinstance(data, dict) and "receipt" not in data:
        data = data.get("made_with", data)
    return Receipt.from_json(data, str(path))


def kept_image(
    path: Path, receipt: Receipt, seed: int, resolution: int | tuple[int, int], channels: int
) -> Pixels | None:
    """The image of a seed as a PNG with that receipt holds it, uint8 (channels, height, width), cut
    out of its grid if it is one; None where it is not in the file."""
    try:
        with open_regular(path) as file, Image.open(file, formats=("PNG",)) as opened:
            picture: Image.Image = opened
            if receipt.seed is None:
                (high, wide), place = sides(resolution), seeds_of(receipt.seeds).index(seed)
                picture.load()  # text may stand behind the pixels
                text = getattr(picture, "text", {}).get(LAYOUT_KEY)
                box = layout_in(text, wide, picture.width).box(place, high, wide)
                if box[3] > picture.height:  # of more images than a grid shows
                    return None
                picture = picture.crop(box)
            return pixels_of([picture], channels)[0]
    except OSError:  # a JSON file
        return None


def _in_png(path: Path) -> Any:
    try:
        with open_regular(path) as file, Image.open(file, formats=("PNG",)) as picture:
            picture.load()  # text may stand behind the pixels
            text = getattr(picture, "text", {}).get(KEY)
    except (OSError, ValueError, SyntaxError, zlib.error, Image.DecompressionBombError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OvertoneError(f"{path} can't be read ({reason}).") from None
    if text is None:
        raise OvertoneError(
            f"{path} holds no receipt: it was not written by Overtone, or what saved it since left"
            " the text out."
        )
    return _parsed(text, path)


def _in_json(path: Path) -> Any:
    try:
        return _parsed(read_regular(path, LARGEST).decode(), path)
    except UnicodeDecodeError:
        raise OvertoneError(f"{path} is neither a PNG nor a JSON file.") from None
    except OSError as error:
        raise OvertoneError(f"{path} can't be read ({error.strerror or error}).") from None


def _parsed(text: str, path: Path) -> Any:
    if len(text) > LARGEST:
        raise OvertoneError(f"{path}: a receipt has at most {LARGEST:,} characters.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OvertoneError(f"{path} holds no receipt: it is not valid JSON ({error}).") from None
