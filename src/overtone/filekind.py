"""What a file holds, told by its first bytes: for messages about files that hold something else."""

from __future__ import annotations

from pathlib import Path

PICKLES = ("a zip, as torch.save writes it", "a pickle")
"""what torch.save writes"""
_BEGINNINGS = (
    (b"PK\x03\x04", PICKLES[0]),
    (b"\x80", PICKLES[1]),
    (b"version https://git-lfs", "a pointer of Git LFS: download the file itself"),
    (b"<!doctype", "a web page: download the file itself"),
    (b"<html", "a web page: download the file itself"),
    (b"\x1f\x8b", "packed by gzip: unpack it"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GGUF", "of the format GGUF, which is not read"),
    (b"\x89HDF", "of the format HDF5, which is not read"),
)


def kind_of(path: Path) -> str:
    """What a file holds, as in "it is a pickle"; "" where its first bytes do not tell."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            first = file.read(64)
    except OSError:
        return ""
    if is_safetensors(first):
        return "of the format safetensors"
    for begins, what in _BEGINNINGS:
        if begins in (first[: len(begins)], first.lstrip().lower()[: len(begins)]):
            return what
    return ""


def is_safetensors(first: bytes) -> bool:
    """Whether a file that begins with these bytes is of safetensors: the length of a header, and
    the brace that it begins with."""
    return len(first) > 8 and first[8:9] == b"{" and int.from_bytes(first[:8], "little") < 2**27
