"""Images held out of training where the data have no split of their own for that.

Which ones is decided by the contents of the images alone, so that every process and every run holds
out the same, at whatever resolution and from whatever place the images are read. Copies of an image
stay together: none is trained on while another is held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from overtone import storage
from overtone.data.images import ImageData, digest_of_array
from overtone.data.splits import HELD_OUT_SHARE, MOST_HELD_OUT
from overtone.errors import OvertoneError, counted
from overtone.launch import processes
from overtone.processes.noise import SeededNoise

BLOCK = 256
KEPT_FROM = 10_000
"""images from which on computed digests are kept in the cache"""


class Subset(ImageData):
    """Some images of a data set, `indices` of it in rising order.

    `told_first` are sentences on what became of the others.
    """

    def __init__(
        self, whole: ImageData, indices: np.ndarray, fingerprint: str, told_first: Sequence[str]
    ) -> None:
        self.whole, self.indices, self.told_first = whole, indices, told_first
        self.name, self.fingerprint = whole.name, fingerprint
        self.resolution, self.channels = whole.resolution, whole.channels
        self.class_names, self.resize_rule = whole.class_names, whole.resize_rule

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, indices: Sequence[int]) -> tuple[Tensor, Int[Tensor, " batch"]]:
        return self.whole.fetch(self.indices[list(indices)].tolist())

    def classes(self, indices: Sequence[int]) -> Int[Tensor, " batch"]:
        return self.whole.classes(self.indices[list(indices)].tolist())

    def clean(
        self, items: Tensor, source: SeededNoise
    ) -> Float[Tensor, "batch channels height width"]:
        return self.whole.clean(items, source)

    def class_counts(self) -> Sequence[int] | None:
        if self.whole.class_counts() is None:
            return None
        labels = self.classes(range(len(self))).numpy()
        return np.bincount(labels, minlength=self.num_classes).tolist()

    def told(self) -> Iterator[str]:
        yield from self.told_first


def hold_out(data: ImageData, share: float = HELD_OUT_SHARE) -> tuple[ImageData, ImageData | None]:
    """The data without a share of its images, and that share: at most `MOST_HELD_OUT` of them.

    The images whose digests are lowest are held out, but for the last one of a class. Data without
    an end and a share of 0 are returned as they are, beside None, and so are data of which the
    usual share is less than one image, or can't be held out because every image is the last of its
    class or is there too often. Raises `OvertoneError` where any other share has these faults, and
    for one that leaves nothing to train on.
    """
    if data.endless or not share:
        return data, None
    images, count = counted(len(data), "image"), min(MOST_HELD_OUT, round(share * len(data)))
    if not count:
        if share != HELD_OUT_SHARE:
            raise OvertoneError(
                f"--held-out-share {share:g} of the {images} of {data.name} is less than one image:"
                f" {1 / len(data):.2g} holds out one, and 0 none."
            )
        return data, None
    if count >= len(data):
        raise OvertoneError(
            f"--held-out-share {share:g} of the {images} of {data.name} leaves nothing to train on:"
            " choose a smaller share, or 0."
        )
    labels = data.classes(range(len(data))).numpy() if data.class_names else None
    chosen = _lowest(contents_of(data), labels, count)
    if not len(chosen) and share == HELD_OUT_SHARE:
        return data, None
    if not len(chosen):
        raise OvertoneError(
            f"no image of {data.name} can be held out: each is the only one of its class, or has"
            f" more than {counted(count, 'copy', 'copies')}. Pass --held-out-share 0."
        )
    rest = np.setdiff1d(np.arange(len(data)), chosen)
    mark = hashlib.sha256(chosen.tobytes()).hexdigest()[:8]
    told = (
        f"{data.name}: {len(chosen):,} of these images are held out, and the loss is measured on"
        " them. They are chosen by their contents, the same in every run; --held-out-share 0 trains"
        " on all."
    )
    trained = f"{data.fingerprint}-without-{len(chosen)}-{mark}"
    held = f"{data.fingerprint}-only-{len(chosen)}-{mark}"
    return Subset(data, rest, trained, [*data.told(), told]), Subset(data, chosen, held, ())


def _lowest(contents: np.ndarray, labels: np.ndarray | None, count: int) -> np.ndarray:
    """The indices of about `count` images, those of the lowest digests, in rising order. Images of
    one digest are taken together, unless they are too many or the last of a class."""
    order = np.lexsort((np.arange(len(contents)), contents))
    values = contents[order]
    begins = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    ends = np.append(begins[1:], len(order))
    left = None if labels is None else np.bincount(labels)
    chosen: list[int] = []
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        group = order[begin:end]
        if len(chosen) == count:
            break
        if len(chosen) + len(group) > count:
            continue
        if labels is not None and left is not None:
            taken = np.bincount(labels[group], minlength=len(left))
            if np.any((taken > 0) & (taken >= left)):
                continue
            left = left - taken
        chosen += group.tolist()
    return np.sort(np.array(chosen, np.int64))


def contents_of(data: ImageData) -> np.ndarray:
    """A digest of each image, (count,) uint64: of the picture as it was stored, where it was
    decoded here, else of the image itself. Those of large data are kept in the cache."""
    if data.contents is not None:
        return data.contents
    name = hashlib.sha256(data.fingerprint.encode(errors="surrogatepass")).hexdigest()[:20]
    file, among = storage.cache_directory() / "contents" / f"{name}.u64", processes()
    if file.exists() and file.stat().st_size == 8 * len(data):
        return np.fromfile(file, np.uint64)
    found = _computed(data)
    if len(data) >= KEPT_FROM and among.local_index == 0:
        with storage.new_file(file) as temporary:
            found.tofile(temporary)
    return found


def _computed(data: ImageData) -> np.ndarray:
    from rich.console import Console
    from rich.progress import track

    starts = range(0, len(data), BLOCK)
    quiet = len(data) < KEPT_FROM or not processes().is_main
    shown = track(starts, "comparing images", console=Console(stderr=True), disable=quiet)
    found = np.empty(len(data), np.uint64)
    for start in shown:
        rows = range(start, min(start + BLOCK, len(data)))
        images, _ = data.fetch(list(rows))
        for row, image in zip(rows, images, strict=True):
            found[row] = digest_of_array(image.movedim(0, -1).contiguous().numpy())
    return found
