"""Archives of any tool, links in folders, and files of every format."""

import os
import struct
import zipfile
from io import BytesIO

import pytest
from PIL import Image

from overtone.data import open_data
from overtone.data.inspect import inspect_data
from overtone.data.names import SUFFIXES
from overtone.data.open import layout_of
from overtone.data.reading import FORMATS
from overtone.errors import OvertoneError
from trees import parsed, png, write_folder, write_zip

PETS = "pets/cat/0.png pets/cat/1.png pets/dog/deep/2.png"


def backslashed(name):
    return name.replace("/", "\\")


# How a tool writes a name, and the folders that it writes entries of: all where that is None.
TOOLS = {
    "plain": (str, []),
    "directory entries": (str, None),
    "leading ./": (lambda name: f"./{name}", None),
    "Windows": (backslashed, None),
    "Windows, no entries": (backslashed, []),
    "absolute": (lambda name: f"/home/me/{name}", None),
    "a drive": (lambda name: "C:\\me\\" + backslashed(name), None),
    "doubled": (lambda name: name.replace("/", "//"), None),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_archives_of_any_tool(tmp_path, tool):
    path = write_zip(tmp_path / "a.zip", parsed(PETS), *TOOLS[tool])
    data = open_data(str(path), 8, 1)
    assert data.class_names == ("cat", "dog")
    pixels, labels = data.fetch([0, 1, 2])
    assert (pixels[:, 0, 0, 0].tolist(), labels.tolist()) == ([0, 1, 2], [0, 0, 1])
    assert data.notes == []
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_macs_archive_and_one_behind_a_program(tmp_path):
    files = parsed(PETS) | {"__MACOSX/pets/cat/._0.png": b"", "pets/.DS_Store": b""}
    path = write_zip(tmp_path / "a.zip", files, folders=["pets", "__MACOSX"])
    path.write_bytes(b"#!/bin/sh\nexit\n" + path.read_bytes())
    data = open_data(str(path), 8, 1)
    assert data.class_names == ("cat", "dog")
    assert data.notes == ["2 files are not images and are passed over (2 hidden)"]


def changed_flags(content, central, local, value):
    """A zip with two bytes changed in the heads of its first member."""
    content = bytearray(content)
    for mark, at in ((b"PK\1\2", central), (b"PK\3\4", local)):
        place = content.index(mark) + at
        content[place : place + 2] = value.to_bytes(2, "little")
    return bytes(content)


def zipped(**options):
    content = BytesIO()
    with zipfile.ZipFile(content, "w", **options) as archive:
        archive.writestr("a.png", png())
    return content.getvalue()


def doubled():
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a/b.png", png())
        archive.writestr("./a/b.png", png())
    return content.getvalue()


def escaping():
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("../../a.png", png())
        archive.writestr("x/../../b.png", png())
    return content.getvalue()


REFUSED = {
    "no zip": (lambda: b"no zip", r"can't be read as a zip .*unpack any other archive"),
    "cut short": (lambda: zipped()[:-30], "can't be read as a zip"),
    "nothing": (lambda: b"", "can't be read as a zip"),
    "twice": (doubled, r"holds 2 files called a/b\.png: pack it again"),
    "encrypted": (lambda: changed_flags(zipped(), 8, 6, 1), "it is encrypted: unpack the archive"),
    "bzip2": (lambda: zipped(compression=zipfile.ZIP_BZIP2), "a.png can't be read .it is packed"),
    "lzma": (lambda: zipped(compression=zipfile.ZIP_LZMA), "a.png can't be read .it is packed"),
    "way 99": (lambda: changed_flags(zipped(), 10, 8, 99), "packed in the way 99"),
    "outside": (escaping, r"holds no images.*passed over \(2 with \.\. in the name\)"),
    "deep": (
        lambda: zipped_as("a/" * 30_000 + "a.png"),
        "has folders that are more than 64 deep",
    ),
    "tar": (lambda: b"\0" * 10240, "can't be read as a zip"),
}


def zipped_as(name):
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, png())
    return content.getvalue()


@pytest.mark.parametrize("name", REFUSED)
def test_archives_that_are_refused(tmp_path, name):
    make, message = REFUSED[name]
    (tmp_path / "a.zip").write_bytes(make())
    with pytest.raises(OvertoneError, match=message) as caught:
        open_data(str(tmp_path / "a.zip"), 8, 1)
    assert len(str(caught.value).splitlines()) == 1
    assert str(tmp_path / "a.zip") in str(caught.value)
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_zip_in_a_zip_and_tables_are_named(tmp_path):
    (tmp_path / "b.zip").write_bytes(zipped_as("a.zip"))
    with pytest.raises(OvertoneError, match=r"1 \.zip.*Archives in it have to be unpacked"):
        open_data(str(tmp_path / "b.zip"), 8, 1)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(OvertoneError, match=r"hf:.*a\.parquet can't be opened"):
        open_data(str(tmp_path / "a.parquet"), 8, 1)
    with pytest.raises(OvertoneError, match="Tables are read by hf:"):
        open_data(str(tmp_path), 8, 1)


BOTH_WAYS = (("cat", "dog"), ("dog", "cat"))
LINKS = {
    "a file": (lambda root, away: (root / "cat/1.png").symlink_to(away / "x.png"), 3, []),
    "a folder": (lambda root, away: (root / "cow").symlink_to(away), 3, []),
    "nowhere": (lambda root, _: (root / "cow").symlink_to(root / "gone"), 2, ["cow leads nowhere"]),
    "itself": (lambda root, _: (root / "cow").symlink_to("cow"), 2, ["cow leads nowhere"]),
    "up": (
        lambda root, _: (root / "cat/up").symlink_to(root),
        2,
        ["cat/up leads back to a folder that it is in"],
    ),
    "above the root": (
        lambda root, _: (root / "cat/up").symlink_to(root.parent),
        2,
        ["cat/up leads back to a folder that it is in"],
    ),
    "each other": (
        lambda root, _: [(root / a / "to").symlink_to(root / b) for a, b in BOTH_WAYS],
        4,
        ["cat/to/to leads back", "dog/to/to leads back"],
    ),
    "hidden": (lambda root, _: (root / ".#a").symlink_to("me@there:1"), 2, ["(1 hidden)"]),
}  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_links_are_followed_and_end(tmp_path, name):
    root = write_folder(tmp_path / "in/it", parsed("cat/0.png dog/1.png"))
    away = write_folder(tmp_path / "away", parsed("x.png"))
    make, count, notes = LINKS[name]
    make(root, away)
    source = layout_of(str(root)).source("train")
    assert len(list(source.items())) == count
    assert all(any(note in line for line in source.notes) for note in notes), source.notes
    assert len(open_data(str(root), 8, 1)) == count


def test_a_dangling_link_to_an_image_is_named(tmp_path):
    root = write_folder(tmp_path / "it", parsed("cat/0.png"))
    (root / "cat/1.png").symlink_to("gone.png")
    with pytest.raises(
        OvertoneError, match=r"cat/1\.png can't be read \(.*No such file.*Repair or"
    ):
        open_data(str(root), 8, 1)
    data = open_data(str(root), 8, 1, skip_bad=True)
    assert (len(data), len(data.left_out)) == (1, 1)


def test_links_of_many_to_many_end(tmp_path):
    """Folders that each lead to all others: as many ways as there are orders of them."""
    root = write_folder(tmp_path / "it", parsed(" ".join(f"{n}/a.png" for n in range(12))))
    for n in range(12):
        for other in range(12):
            if n != other:
                (root / f"{n}/to{other}").symlink_to(f"../{other}")
    with pytest.raises(OvertoneError, match="is reached through more than 8 links: remove some"):
        layout_of(str(root))


def picture(suffix, shade=250):
    """The bytes of a picture in the format of a suffix."""
    Image.init()
    known = Image.registered_extensions()[suffix]
    image = Image.new("RGB", (16, 16), (shade,) * 3)
    content = BytesIO()
    if known == "PSD":  # which Pillow reads alone: 3 channels of 16 x 16 with 8 bits, no layers
        head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 16, 16, 8, 3) + bytes(12)
        return head + bytes(2) + bytes([shade]) * (3 * 16 * 16)
    grey = {".pbm": "1", ".pgm": "L", ".bw": "L"}
    image.convert(grey.get(suffix, "RGB")).save(content, known)
    return content.getvalue()


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_format_is_read_under_each_of_its_suffixes(tmp_path, suffix):
    (tmp_path / f"a{suffix.upper()}").write_bytes(picture(suffix))
    data = open_data(str(tmp_path), 16, 3)
    assert (len(data), data.notes) == (1, [])
    assert int(data.fetch([0])[0].min()) >= 240
    assert inspect_data(str(tmp_path)).count == 1


def test_every_suffix_of_the_formats_is_known():
    """But of floats, which are refused where they are read."""
    Image.init()
    formats = (*FORMATS, "MPO")
    usual = {s for s, known in Image.registered_extensions().items() if known in formats}
    assert usual - SUFFIXES == {".pfm"}
