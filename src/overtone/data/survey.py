"""What a data set holds, before it is decided at what size it is read: sizes, classes, colours,
transparency. Pictures are opened, and only some of them decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from overtone.data.converting import has_colours
from overtone.data.fetched import names_in
from overtone.data.names import NAMES, OPENERS
from overtone.data.open import open_data, open_source
from overtone.data.own import items_of
from overtone.data.reading import Item
from overtone.errors import OvertoneError, counted
from overtone.registry import said
from overtone.sizes import Resolution, resolution_of

OPENED, DECODED = 20_000, 400
"""The pictures whose size is read, and those whose colours are looked at, both spread over all."""
IMBALANCE = 10
"""Classes of which the largest has so many times the images of the smallest are told of."""
FEW = 0.01
"""A share of pictures that are smaller than others, and could be left out."""


@dataclass
class Survey:
    """What looking at some of the pictures found."""

    name: str
    count: int | None = None
    """The number of images. None means that only reading them tells, or that there is no end."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """The (width, height) of the images that were opened."""
    classes: dict[str, int] = field(default_factory=dict)
    """The number of images of each class. It is empty for data without classes."""
    coloured: int = 0
    transparent: int = 0
    decoded: int = 0
    """The number of images that were looked at for colours and transparency."""
    fixed: Resolution | None = None
    """The only resolution that there is, where data are given at one."""
    any_size: bool = False
    """Whether images are drawn at any size that is asked for."""

    @property
    def channels(self) -> int:
        """1 where no colour was seen, else 3."""
        return 3 if self.coloured or not self.decoded else 1

    @property
    def smallest(self) -> int:
        """The smallest side of any picture that was opened."""
        return min((min(size) for size in self.sizes), default=0)

    def smaller_than(self, side: int) -> int:
        """The number of pictures opened of which a side is smaller."""
        return sum(count for size, count in self.sizes.items() if min(size) < side)

    def told(self, background: str, grey: bool) -> Iterator[str]:
        """What is there, in sentences."""
        classes = counted(len(self.classes), "class", "classes") if self.classes else "no classes"
        yield f"{self.name}: {self._many()}, {classes}"
        if len(filled := sorted(filter(None, self.classes.values()))) > 1:
            least, most = filled[0], filled[-1]
            if most >= IMBALANCE * least:
                yield (
                    f"  classes differ in size: the smallest has {counted(least, 'image')}, the"
                    f" largest {most:,}. Each image is shown equally often."
                )
        if self.sizes:
            small, large = (f(self.sizes, key=min) for f in (min, max))
            span = f" to {large[0]} x {large[1]}" if large != small else ""
            yield f"  sizes: {small[0]} x {small[1]}{span} px"
        if self.decoded:
            colour = self._share(self.coloured)
            read = ", and are read as grey (--grey)" if grey and self.coloured else ""
            yield f"  colour: {colour} of the pictures looked at have colours{read}"
        if self.transparent:
            yield (
                f"  transparency: {self._share(self.transparent)} of the pictures looked at are"
                f" partly transparent, and are laid on {background} (--background takes another"
                " colour)"
            )

    def _share(self, count: int) -> str:
        whole = {0: "none", self.decoded: "all"}
        return whole.get(count, f"{max(0.01, count / max(self.decoded, 1)):.0%}")

    def _many(self) -> str:
        return "any number of images" if self.count is None else counted(self.count, "image")


def survey(name: str) -> Survey:
    """Look at a data set. Raises `OvertoneError` for one that does not exist, and for a registered
    one, which is opened at a size only."""
    found = Survey(name)
    if name in OPENERS:
        raise OvertoneError(
            f"{name} is opened at a size that is asked for: pass --resolution, and --grey for grey"
            " images."
        )
    if name in NAMES:
        return _of_ours(found)
    source = open_source(name)
    assert source is not None  # of a training split
    labels: Counter[int] = Counter()
    found.count = source.count
    every = [max(1, (source.count or OPENED) // most) for most in (OPENED, DECODED)]
    for number, item in enumerate(source.items()):
        if item.label is not None:
            labels[item.label] += 1
        if source.count is None and number >= OPENED:
            break
        if number % every[0] == 0:
            _look(found, item, whole=number % every[1] == 0 and found.decoded < 2 * DECODED)
    if not found.sizes:
        raise OvertoneError(f"{name} has no images that can be opened.")
    found.classes = {own: labels[number] for number, own in enumerate(source.class_names)}
    return found


def survey_given(value: Any, name: str = "") -> Survey:
    """The same of data that are given as an object in Python."""
    name = name or getattr(value, "name", "") or type(value).__name__
    found = Survey(name)
    if hasattr(value, "fetch"):  # its images have one size already
        try:
            images, _ = value.fetch([0])
            (channels, height, width), count = images.shape[1:], len(value)
        except Exception as error:  # whatever a foreign object raises
            raise OvertoneError(
                f"`fetch` of {name} has to return images (count, channels, height, width) and their"
                f" labels, and fails ({said(error)})."
            ) from error
        found.count = None if getattr(value, "endless", False) else count
        found.sizes[width, height] = count
        found.coloured, found.decoded = int(channels == 3), 1
        found.classes = dict.fromkeys(names_in(value), 0)
        found.fixed = resolution_of(height, width)
        return found
    items, found.count, names = items_of(value, name)
    labels: Counter[int] = Counter()
    every = [max(1, found.count // most) for most in (OPENED, DECODED)]
    for number, item in enumerate(items):
        if item.label is not None:
            labels[item.label] += 1
        if number % every[0] == 0:
            _look(found, item, whole=number % every[1] == 0)
    if not found.sizes:
        raise OvertoneError(f"{name} has no images that can be opened.")
    named = names or tuple(str(number) for number in range(max(labels, default=-1) + 1))
    found.classes = {own: labels[number] for number, own in enumerate(named)}
    return found


def _of_ours(found: Survey) -> Survey:
    """What is known of Overtone's own data sets."""
    if found.name in ("builtin:glyphs", "builtin:photos"):
        found.any_size, found.coloured, found.decoded = True, 1, 1
        opened = open_data(found.name, 64, 3)
        found.classes = dict.fromkeys(opened.class_names, 0)
        return found
    size, count = {"builtin:digits": (8, 1_500), "fashion-mnist": (32, 60_000)}[found.name]
    found.count, found.sizes[size, size], found.decoded = count, count, 1
    found.classes = {str(number): count // 10 for number in range(10)}
    return found


def _look(found: Survey, item: Item, *, whole: bool) -> None:
    """Note the size of a picture and, looking at the whole of it, its colours. What can't be read
    is told of when all are."""
    try:
        image: Any = item.read()
        found.sizes[image.size] += 1
        if not whole:
            return
        transparent = image.has_transparency_data
        if transparent:
            image = image.convert("RGBA")
            transparent = image.getchannel("A").getextrema() != (255, 255)
        found.transparent += transparent
        found.coloured += has_colours(image)
        found.decoded += 1
    except Exception:  # damaged files make Pillow raise almost anything
        return
