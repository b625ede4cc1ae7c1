"""Grids of samples as they are saved: a column for each class where that fits, with its name."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from PIL import Image, ImageDraw, ImageFont

from overtone import settings
from overtone.data.images import Pixels
from overtone.errors import OvertoneError
from overtone.pipelines.pictures import grid, to_pil
from overtone.ranges import Columns, Whole, check_fields

KEY = "overtone-grid"
"""the key of a PNG's text that says how a grid is laid out"""
GAP = 1
BACKGROUND = 64
"""the grey between images"""
WIDEST = 32
"""columns of a grid, by default"""
USUAL = 8
SMALLEST_TEXT, LARGEST_TEXT = 8, 12
"""pixels of a name's letters"""
LONGEST = 96
"""pixels of a name that is written upwards"""


@dataclass(frozen=True)
class Layout:
    """Where the images of a grid are."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    columns: Columns
    header: Whole = 0
    """The number of pixels above all images, for the names of columns."""
    band: Whole = 0
    """The number of pixels above each image, for its own name."""

    def __post_init__(self) -> None:
        check_fields(self)

    def box(self, place: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of an image."""
        row, column = divmod(place, self.columns)
        left = column * (width + GAP)
        top = self.header + row * (self.band + height + GAP) + self.band
        return left, top, left + width, top + height


def columns_for(count: int, labels: Sequence[int] | None = None) -> int:
    """The number of columns of a grid: each shows one class where the labels come in turns, and no
    cell stays empty.

    Cells stay empty only if no division of the images makes a grid that is at most four times as
    high as wide, or as wide as high: 37 images, say.
    """
    period = _period(labels) if labels else 1
    if 1 < period <= WIDEST and count % period == 0:
        columns = period
        while 2 * columns <= WIDEST and count > 2 * columns**2 and not count % (2 * columns):
            columns *= 2
        return columns
    if count <= USUAL:
        return _divisor(count) or count  # one row
    return _divisor(count) or USUAL


def _divisor(count: int) -> int | None:
    """The columns of the grid without empty cells that is nearest to a square, wide rather than
    high: 64 images are 8 x 8, 12 are 4 x 3, 60 are 10 x 6."""
    fits = [
        columns
        for columns in range(1, min(count, WIDEST) + 1)
        if count % columns == 0 and count <= 4 * columns**2 and columns**2 <= 4 * count
    ]
    return min(fits, key=lambda c: abs(math.log(c * c / count / 1.3)), default=None)


def _period(labels: Sequence[int]) -> int:
    """The shortest list of different classes that the labels are when it is repeated; 0 where they
    are none."""
    first = labels[0]
    period = next((k for k in range(1, len(labels)) if labels[k] == first), len(labels))
    whole = list(labels[:period])
    same = all(label == whole[k % period] for k, label in enumerate(labels))
    return period if same and len(set(whole)) == period else 0


def sheet(
    images: Pixels,
    labels: Sequence[int] | None = None,
    class_names: Sequence[str] = (),
    columns: int | None = None,
) -> tuple[Image.Image, Layout]:
    """Images as a picture, with the names of their classes where these are readable at their size.

    A name stands above its column if each column shows one class, else above each image.
    """
    count = len(images)
    columns = min(columns or columns_for(count, labels), count)
    plain = grid(images, columns, gap=GAP)
    if not labels or not class_names:
        return plain, Layout(columns)
    height, width = images.shape[2:]
    names = [class_names[label] for label in labels[:count]]
    if all(names[k] == names[k % columns] for k in range(count)):
        return _with_header(plain, names[:columns], width)
    return _with_bands(images, names, columns, height, width)


def _with_header(
    plain: Image.Image, names: Sequence[str], width: int
) -> tuple[Image.Image, Layout]:
    font = _font(width)
    if font is None:
        return plain, Layout(len(names))
    upwards = max(font.getlength(name) for name in names) > width
    tiles = [_name(name, font, LONGEST if upwards else width) for name in names]
    tiles = [tile.rotate(90, expand=True) for tile in tiles] if upwards else tiles
    header = max(tile.height for tile in tiles) + 2
    whole = Image.new(plain.mode, (plain.width, plain.height + header), _grey(plain.mode))
    whole.paste(plain, (0, header))
    for column, tile in enumerate(tiles):
        left = column * (width + GAP) + max(0, (width - tile.width) // 2)
        whole.paste(tile.convert(plain.mode), (left, header - 1 - tile.height))
    return whole, Layout(len(names), header)


def _with_bands(
    images: Pixels, names: Sequence[str], columns: int, height: int, width: int
) -> tuple[Image.Image, Layout]:
    font = _font(width)
    if font is None or width < 3 * SMALLEST_TEXT:  # a name of one's own needs some letters
        return grid(images, columns, gap=GAP), Layout(columns)
    tiles = [_name(name, font, width) for name in names]
    layout = Layout(columns, 0, max(tile.height for tile in tiles) + 1)
    rows = -(-len(images) // columns)
    mode = "L" if images.shape[1] == 1 else "RGB"
    size = columns * (width + GAP) - GAP, rows * (layout.band + height + GAP) - GAP
    whole = Image.new(mode, size, _grey(mode))
    for place, image in enumerate(images):
        left, top, *_ = layout.box(place, height, width)
        whole.paste(to_pil(image), (left, top))
        whole.paste(tiles[place].convert(mode), (left, top - layout.band))
    return whole, layout


def _grey(mode: str) -> Any:
    return BACKGROUND if mode == "L" else (BACKGROUND,) * 3


def _font(width: int) -> Any:
    """Letters for images of some width; None where they would not fit."""
    if width < SMALLEST_TEXT:
        return None
    return ImageFont.load_default(min(LARGEST_TEXT, max(SMALLEST_TEXT, width // 3)))


def _name(name: str, font: Any, room: int) -> Image.Image:
    """A name as a grey picture, cut off where it is longer than the room that there is."""
    text = " ".join("".join(c if c.isprintable() else " " for c in name).split()) or "?"
    while len(text) > 1 and font.getlength(text) > room:
        text = text.rstrip("…")[:-1].rstrip() + "…"
        if font.getlength("…") > room:
            break
    left, top, right, bottom = font.getbbox(text)
    tile = Image.new("L", (max(1, math.ceil(right - left)), max(1, bottom - top)), BACKGROUND)
    ImageDraw.Draw(tile).text((-left, -top), text, 255, font)
    return tile.crop((0, 0, min(tile.width, room), tile.height))


def layout_text(layout: Layout) -> str:
    """A layout as a PNG's text."""
    return json.dumps(asdict(layout))


def layout_in(text: Any, width: int, picture_width: int) -> Layout:
    """The layout that a PNG's text says; of a grid without one, that of images side by side. Raises
    `OvertoneError` for a text that says none."""
    if text is None:
        return Layout(max(1, (picture_width + GAP) // (width + GAP)))
    try:
        return settings.load(Layout, json.loads(text), "the grid's layout")
    except (ValueError, TypeError, RecursionError) as error:
        raise OvertoneError(f"the grid's layout can't be read ({error}).") from None
