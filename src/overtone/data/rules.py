"""How pictures of any size and kind become images of one size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from overtone.ranges import check_fields
from overtone.sizes import Resolution, sides

Crop = Literal["fit", "square", "none"]
"""fit: the largest part in the middle that has the proportions of the images; square: the same, and
images that are no squares are refused; none: nothing is cut off, and pictures of other proportions
are refused."""


@dataclass(frozen=True)
class Reading:
    """What is done to pictures that are not what is wanted."""

    skip_bad: bool = False
    """Leave out what can't be read or is too small, instead of stopping."""
    background: str = "white"
    """The colour behind transparent pictures."""
    crop: Crop = "fit"
    """What part of a picture becomes the image."""

    def __post_init__(self) -> None:
        check_fields(self)
        colour_of(self.background)

    def facts(self) -> dict[str, str]:
        """What differs from the defaults, for those who read the same pictures later."""
        own = {"background": self.background, "crop": self.crop}
        return {name: value for name, value in own.items() if value != getattr(Reading(), name)}

    def rule(self, resolution: Resolution) -> str:
        """What is done, in words that are written beside scores."""
        height, width = sides(resolution)
        if self.crop == "square" and height != width:
            raise ValueError(
                f"a square does not fill images of {height} x {width} px: choose the crop fit,"
                " which keeps the largest part of these proportions, or none"
            )
        cut = {"square": "centre crop to a square", "none": "no crop"}.get(
            self.crop, f"centre crop to {height}:{width}"
        )
        if self.crop == "fit" and height == width:
            cut = "centre crop to a square"
        on = "" if self.background == "white" else f", on {self.background}"
        return f"{cut}, Lanczos{on}"


def colour_of(name: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour by its name or as #rrggbb. Raises `ValueError` for others."""
    from PIL import ImageColor

    try:
        found: Any = ImageColor.getrgb(name)
        if len(found) != 3:
            raise ValueError
    except (ValueError, AttributeError):
        raise ValueError(
            f"background must be a colour, such as white, black or #336699, not {name!r:.60}"
        ) from None
    return found
