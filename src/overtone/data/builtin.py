"""Data that needs no download: digits, glyphs, and Fashion-MNIST from a local copy."""

from __future__ import annotations

import gzip
import math
import os
import random
import string
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from overtone.data.images import ArrayData, ImageData, Pixels
from overtone.data.reading import decode
from overtone.errors import OvertoneError
from overtone.sizes import Resolution, shown, sides

DIGITS_TEST = 297

# Latin letters in matplotlib's own fonts; the folder's others are symbols.
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold",
    "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
    "cmb10", "cmr10", "cmss10", "cmtt10", "cmti10",
)  # fmt: skip

FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


def open_digits(resolution: Resolution, channels: int, split: str) -> ArrayData:
    """scikit-learn's 1,797 handwritten digits, 8x8 and grey; the last 297 are the test split."""
    if (resolution, channels) != (8, 1):
        raise OvertoneError(
            f"builtin:digits is 8 px and grey, not {shown(resolution)} px with {channels} channels:"
            " ask for that, or choose builtin:glyphs."
        )
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Values are counts 0..16.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    rows = slice(-DIGITS_TEST, None) if split == "test" else slice(None, -DIGITS_TEST)
    names = [str(i) for i in range(10)]
    return ArrayData("builtin:digits", images[rows], digits.target[rows].astype(np.int64), names)


class Glyphs(ImageData):
    """Capital letters, dark on light, in random fonts, positions, shapes and colours; as many as
    are asked for.

    Image i is a function of (seed, split, i) alone, and its class is i mod 26. The letter is drawn
    at twice the resolution or more, transformed, and averaged down.
    """

    class_names = tuple(string.ascii_uppercase)
    endless = True

    def __init__(
        self, resolution: Resolution, channels: int = 3, split: str = "train", seed: int = 0
    ) -> None:
        if min(sides(resolution)) < 8 or channels not in (1, 3):
            raise OvertoneError("builtin:glyphs needs at least 8 px, and 1 or 3 channels.")
        self.name = "builtin:glyphs"
        self.resolution = resolution
        self.channels = channels
        self.split = split
        self.seed = seed
        self.fingerprint = f"glyphs 2 {resolution} {channels} {split} {seed}"

    def __len__(self) -> int:
        return 2600 if self.split == "test" else 2**31

    def fetch(self, indices: Sequence[int]) -> tuple[Pixels, Int[Tensor, " batch"]]:
        images = np.stack([self.draw(int(i)) for i in indices])
        return torch.from_numpy(images), torch.tensor([int(i) % 26 for i in indices])

    def draw(self, index: int) -> np.ndarray:
        """Image `index` as (channels, height, width) uint8, the letter in the middle."""
        # Only random(), whose sequence Python keeps from version to version.
        draw = random.Random(f"{self.seed} {self.split} {index}").random
        rows, columns = sides(self.resolution)
        square = min(rows, columns)
        scale = max(2, math.ceil(64 / square))
        side = square * scale
        font = _font(FONTS[int(draw() * len(FONTS))], side * 3 // 4)
        mask = Image.new("L", (side, side))
        middle = (side / 2, side / 2)
        ImageDraw.Draw(mask).text(middle, self.class_names[index % 26], 255, font, anchor="mm")

        angle, shear = math.radians(20 * draw() - 10), 0.2 * draw() - 0.1
        width, height = 0.85 + 0.25 * draw(), 0.85 + 0.25 * draw()
        # The inverse map (output pixel -> input pixel) of rotate, shear and scale about the middle.
        a, b = math.cos(angle) / width, (math.sin(angle) + shear) / width
        c, d = -math.sin(angle) / height, math.cos(angle) / height
        x = middle[0] - side * (0.1 * draw() - 0.05)
        y = middle[1] - side * (0.1 * draw() - 0.05)
        offset = (x - a * middle[0] - b * middle[1], y - c * middle[0] - d * middle[1])
        mask = mask.transform(
            (side, side),
            Image.Transform.AFFINE,
            (a, b, offset[0], c, d, offset[1]),
            Image.Resampling.BILINEAR,
        )
        around = [(n // 2, n - n // 2) for n in (rows - square, columns - square)]
        cover = np.pad(np.asarray(mask.reduce(scale), np.float32), around)[None] / 255

        while True:
            ink, paper = ([draw() for _ in range(self.channels)] for _ in range(2))
            if sum(paper) - sum(ink) > 0.4 * self.channels:
                break
        colours = np.array([ink, paper], np.float32)[:, :, None, None] * 255
        return np.round(cover * colours[0] + (1 - cover) * colours[1]).astype(np.uint8)


@lru_cache(maxsize=256)
def _font(name: str, size: int) -> Any:
    # matplotlib's fonts without importing matplotlib.
    from importlib.util import find_spec

    spec = find_spec("matplotlib")
    assert spec is not None
    file = Path(str(spec.origin)).parent / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)


FASHION_HUB = "hf:zalando-datasets/fashion_mnist"


def open_fashion_mnist(resolution: Resolution, channels: int, split: str) -> ArrayData:
    """Zalando's 70,000 grey pictures of clothes, 28 px; 32 px with two black pixels around.

    The four IDX files, gzipped or not, are looked for in $OVERTONE_DATA/fashion-mnist,
    $OVERTONE_DATA, and where Debian's package dataset-fashion-mnist puts them; where there are
    none, the Hub is asked.
    """
    if resolution not in (28, 32) or channels != 1:
        raise OvertoneError(
            f"fashion-mnist is grey, and 28 px or padded to 32 px, not {shown(resolution)} px"
            f" with {channels} channels."
        )
    folder = _fashion_folder()
    images, labels = _fashion_hub(split) if folder is None else _fashion_files(folder, split)
    rule = "none"
    if resolution == 32:
        images = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
        rule = "padded from 28 to 32 with black"
    return ArrayData("fashion-mnist", images, labels, FASHION_CLASSES, rule)


def _fashion_files(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    part = "t10k" if split == "test" else "train"
    images = read_idx(_idx_file(folder, f"{part}-images-idx3-ubyte"))[:, None]
    labels = read_idx(_idx_file(folder, f"{part}-labels-idx1-ubyte")).astype(np.int64)
    if images.shape[2:] != (28, 28) or len(images) != len(labels):
        raise OvertoneError(
            f"{folder}: {part} has images of shape {images.shape} and {len(labels)} labels, not"
            " Fashion-MNIST's."
        )
    return images, labels


def _fashion_hub(split: str) -> tuple[np.ndarray, np.ndarray]:
    from overtone.data.hub import hub_source

    try:
        source = hub_source(FASHION_HUB, split)
        assert source is not None
        data = decode(source, 28, 1)
    except OvertoneError as error:
        raise OvertoneError(
            "fashion-mnist was not found on this machine, and not on the Hub either"
            f" ({error}). Put its four IDX files into a folder that OVERTONE_DATA names, or"
            " `apt-get install dataset-fashion-mnist`."
        ) from None
    return np.asarray(data.images), data.labels


def read_idx(file: Path) -> np.ndarray:
    """An array of bytes in the IDX format: 0, 0, 8, rank, the shape as big-endian int32."""
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        rank = data[3]
        if data[:3] != b"\0\0\x08":
            raise ValueError("not an IDX file of bytes")
        shape = np.frombuffer(data, ">i4", rank, 4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise OvertoneError(f"{file} is damaged ({error}): get it again.") from None


def _fashion_folder() -> Path | None:
    places = [DEBIAN_FASHION]
    if "OVERTONE_DATA" in os.environ:
        root = Path(os.environ["OVERTONE_DATA"])
        places = [root / "fashion-mnist", root, *places]
    for place in places:
        if list(place.glob("train-images-idx3-ubyte*")):
            return place
    return None


def _idx_file(folder: Path, name: str) -> Path:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.exists():
            return file
    raise OvertoneError(f"{folder / name} is missing: the four IDX files belong together.")
