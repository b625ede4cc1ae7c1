"""What splits are called, and which of several is taken: by one rule for folders, archives and
tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

TRAINING = ("train", "training", "trn")
HELD_OUT = (
    *("test", "testing", "tst", "val", "valid", "validation", "eval", "evaluation", "dev"),
    *("holdout", "heldout"),
)
"""What splits are called, the first that is there being taken."""
HELD_OUT_SHARE, MOST_HELD_OUT = 0.05, 2_000
"""The share of images, and the most of them, that `heldout` holds out where there is no split."""

_AROUND = "images|image|imgs|img|pictures|data|split|set"


def split_of(name: str) -> str | None:
    """The split that a folder of this name holds, one of `TRAINING` or `HELD_OUT`: "Test_set",
    "val2017", "train_64x64" and "images-train" are called like one. None for any other name."""
    word = re.sub(r"[\W_]+", "", name.casefold())
    word = re.sub(r"^\d+|\d+(x\d+)?$", "", word)
    word = re.sub(rf"({_AROUND})$", "", word)
    word = re.sub(r"\d+$", "", word)
    word = re.sub(rf"^({_AROUND})", "", word)
    return word if word in (*TRAINING, *HELD_OUT) else None


def splits_in(names: Iterable[str]) -> dict[str, list[str]]:
    """The names that are those of splits, under 'train' and 'test', the one that is taken first."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        word = split_of(name)
        if word is not None:
            split, order = ("train", TRAINING) if word in TRAINING else ("test", HELD_OUT)
            found.setdefault(split, []).append((order.index(word), name))
    return {split: [name for _, name in sorted(found[split])] for split in sorted(found)[::-1]}


def unused(what: str, taken: Sequence[str]) -> list[str]:
    """A sentence for each of several splits of one kind that is not taken."""
    return [f"the {what} '{other}' is not used beside '{taken[0]}'" for other in taken[1:]]
