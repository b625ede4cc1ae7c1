"""Data made to take memory or time, or that change under one's hands: refused, in one line."""

import contextlib
import io
import json
import os
import struct
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

from overtone.data import held_out, open_data
from overtone.data.inspect import inspect_data
from overtone.errors import OvertoneError
from trees import parsed, png, write_folder, write_zip

LABELS = {
    "nested": ("[" * 100_000 + "]" * 100_000, "is not of the form"),
    "nested labels": (
        json.dumps({"labels": [["0.png", eval("[" * 90 + "]" * 90)]]}),
        r"the label of 0\.png is \[\[\[.*not a class label",
    ),
    "nested keys": ('{"a":' * 50_000 + "1" + "}" * 50_000, "is not of the form"),
    "nothing": ("", "is not of the form"),
    "a number": ("3", "is not of the form"),
    "a list": ("[]", "is not of the form"),
    "no labels": ("{}", "is not of the form"),
    "numbers": ('{"labels": [1, 2]}', "is not of the form"),
    "triples": ('{"labels": [["0.png", 1, 2]]}', "is not of the form"),
    "a dictionary": ('{"labels": {"0.png": 1}}', "is not of the form"),
    "no names": ('{"labels": [[0, 1]]}', "is not of the form"),
    "a text": ('{"labels": "0.png"}', "is not of the form"),
    "latin-1": ('{"labels": [["é.png", 0]]}'.encode("latin-1"), "can't be read .*UTF-8"),
    "zeros": (bytes(1000), "is not of the form"),
    "digits": ('{"labels": [["0.png", ' + "9" * 5000 + "]]}", "is not of the form"),
    "huge": ('{"labels": [["0.png", ' + "9" * 4000 + "]]}", "100,000 classes are the most"),
    "too many": ('{"labels": [["0.png", 100000]]}', "100000, and 100,000 classes are the most"),
    "negative": ('{"labels": [["0.png", -1]]}', "-1, not a class label"),
    "a float": ('{"labels": [["0.png", 1.0]]}', "1.0, not a class label"),
    "infinite": ('{"labels": [["0.png", Infinity]]}', "inf, not a class label"),
    "a boolean": ('{"labels": [["0.png", true]]}', "True, not a class label"),
    "a null": ('{"labels": [["0.png", null]]}', "None, not a class label"),
    "a list of floats": ('{"labels": [["0.png", [0.2, 0.8]]]}', r"\[0.2, 0.8\], not a class"),
    "a long list": (json.dumps({"labels": [["0.png", [0.1] * 10_000]]}), "not a class label"),
    "another's": ('{"labels": [["../../etc/passwd", 1]]}', r"has no label for 0\.png"),
    "far too long": (
        json.dumps({"labels": [[f"{n}.png", 1] for n in range(100_000)]}),
        r"bytes, too many for the labels of 1 images: leave those of other images away",
    ),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_files_of_labels(tmp_path, kind, write):
    content, message = LABELS[kind]
    content = content if isinstance(content, bytes) else content.encode()
    root = write(tmp_path / "it.zip", {"0.png": png(), "dataset.json": content})
    began = time.perf_counter()
    with pytest.raises(OvertoneError, match=message) as caught:
        open_data(str(root), 8, 1)
    assert f"{root}/dataset.json" in str(caught.value)
    assert len(str(caught.value)) < 1200
    assert time.perf_counter() - began < 5


@pytest.mark.slow
def test_a_million_labels(tmp_path):
    """With as many images, which are read one after another elsewhere."""
    from overtone.data.labels import Labels

    names = [f"{n // 1000:05d}/img{n:08d}.png" for n in range(1_000_000)]
    content = json.dumps({"labels": [[name, n % 1000] for n, name in enumerate(names)]})
    numbers = Labels(content.encode(), "dataset.json", "").of(names)
    assert numbers is not None
    assert numbers[-3:] == [997, 998, 999]


def huge_png(width, height):
    """A picture of a few bytes that claims to be that large."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


def huge_bmp(width, height):
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head + bytes(10)


def thin_png(width, height):
    content = io.BytesIO()
    Image.new("L", (width, height)).save(content, "png")
    return content.getvalue()


def floats():
    content = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.float32)).save(content, "tiff")
    return content.getvalue()


PICTURES = {
    "100,000 x 100,000": (huge_png(100_000, 100_000), r"can't be read \(Image size"),
    "12,000 x 12,000": (huge_png(12_000, 12_000), "144,000,000 pixels, and 134,217,728 are the"),
    "a bitmap": (huge_bmp(30_000, 30_000), "can't be read"),
    "no pixels": (huge_png(0, 0), "can't be read"),
    "negative": (huge_bmp(-5, 5), "can't be read"),
    "thin": (thin_png(1, 60_000), "is 1 x 60000, smaller than the resolution 8"),
    "flat": (thin_png(60_000, 1), "is 60000 x 1, smaller than the resolution 8"),
    "empty": (b"", "can't be read"),
    "cut short": (png()[:44], "can't be read"),
    "cut in the head": (png()[:20], "can't be read"),
    "floats": (floats(), "floating-point pixels, whose range is not known"),
    "a script": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "can't be read"),
    "an archive": (b"PK\3\4" + bytes(100), "can't be read"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("write", ["folder", "zip", "parquet"])
def test_pictures_are_refused_before_memory_is_taken(tmp_path, kind, write):
    content, message = PICTURES[kind]
    if write == "parquet":
        pandas.DataFrame({"image": [png(), content]}).to_parquet(tmp_path / "it.parquet")
        root, where = f"hf:{tmp_path / 'it.parquet'}", "row 1"
    else:
        files = {"a.png": png(), "b.png": content}
        make = write_folder if write == "folder" else write_zip
        root, where = str(make(tmp_path / "it", files)), "b.png"
    tracemalloc.start()
    try:
        with pytest.raises(OvertoneError, match=message) as caught:
            open_data(root, 8, 1)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert f"{where} " in str(caught.value)
    assert "--skip-bad-images" in str(caught.value)
    data = open_data(root, 8, 1, skip_bad=True)
    assert (len(data), len(data.left_out)) == (1, 1)
    found = inspect_data(root, 8)
    assert (found.count, len(found.refused)) == (1, 1)


def test_a_thin_picture_is_inspected(tmp_path):
    (tmp_path / "a.png").write_bytes(thin_png(1, 60_000))
    found = inspect_data(str(tmp_path))
    assert dict(found.sizes) == {(1, 60_000): 1}


def bomb(size, claimed=None):
    """A zip whose member becomes `size` bytes, and says that it becomes `claimed`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(size))
        archive.writestr("b.png", png())
    whole = bytearray(content.getvalue())
    for mark, at in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        place = whole.index(mark) + at
        whole[place : place + 4] = (claimed or size).to_bytes(4, "little")
    return bytes(whole)


BOMBS = {
    "one that says so": (bomb(2**28), r"it has [\d,]+ bytes, and would become 268,435,456"),
    "one that does not": (bomb(2**28, 1000), "can't be read"),
    "one that says more": (bomb(1000, 2**25), "can't be read"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_members_that_would_grow_are_not_read_whole(tmp_path, kind):
    content, message = BOMBS[kind]
    (tmp_path / "a.zip").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(OvertoneError, match=message) as caught:
            open_data(str(tmp_path / "a.zip"), 8, 1)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert "a.zip/a.png" in str(caught.value)
    assert len(open_data(str(tmp_path / "a.zip"), 8, 1, skip_bad=True)) == 1


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_empty_files(tmp_path, count):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.png").touch()
    with pytest.raises(
        OvertoneError, match=rf"{2 * count - 3:,} more like it\. Repair or"
    ) as caught:
        open_data(str(tmp_path), 8, 1)
    assert len(str(caught.value)) < 2000


def test_bad_files_are_counted_and_their_class_is_told(tmp_path):
    files = {f"dog/{number}.png": b"" for number in range(300)} | {"cat/a.png": png()}
    data = open_data(str(write_folder(tmp_path, files)), 8, 1, skip_bad=True)
    assert (len(data), len(data.left_out)) == (1, 300)
    assert any("1 of 2 classes have no images (dog)" in line for line in data.told())


SPECIAL = {
    "a pipe": lambda path: os.mkfifo(path),
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
    "a folder": lambda path: path.mkdir(),
    "a socket": lambda path: os.mknod(path, 0o140600),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_does_not_block(tmp_path, kind):
    write_folder(tmp_path / "it", parsed("a/0.png"))
    SPECIAL[kind](tmp_path / "it/a/1.png")
    if kind == "a folder":
        assert len(open_data(str(tmp_path / "it"), 8, 1)) == 1
        return
    with pytest.raises(OvertoneError, match=r"a/1\.png can't be read"):
        open_data(str(tmp_path / "it"), 8, 1)
    assert len(open_data(str(tmp_path / "it"), 8, 1, skip_bad=True)) == 1
    (tmp_path / "it/a/1.png").unlink()
    for name in ("dataset.json", "readme"):  # the one is read, the other is not
        SPECIAL[kind](tmp_path / "it" / name)
    with pytest.raises(OvertoneError, match=r"dataset\.json can't be read"):
        open_data(str(tmp_path / "it"), 8, 1)


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_is_no_data(tmp_path, kind):
    for name in ("a.zip", "a.parquet"):
        SPECIAL[kind](tmp_path / name)
    for name in (str(tmp_path / "a.zip"), f"hf:{tmp_path / 'a.parquet'}"):
        with pytest.raises(OvertoneError, match=r"neither|holds no images|can't be opened"):
            open_data(name, 8, 1)


def test_a_flat_folder_of_tables_does_not_block_either(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    for name in ("b.png", "README.md"):
        os.mkfifo(tmp_path / name)
    assert len(open_data(f"hf:{tmp_path}", 8, 1, skip_bad=True)) == 1


def test_files_and_folders_that_may_not_be_read_are_named(tmp_path, monkeypatch):
    """As another user's; the tests' own may read everything."""
    root = write_folder(tmp_path / "it", parsed("cat/0.png dog/1.png .hidden/a.png"))
    own_open, own_scan = os.open, os.scandir

    def refused(path, *rest, own, what, **named):
        if what in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return own(path, *rest, **named)

    def opening(what):
        return lambda *given, **named: refused(*given, own=own_open, what=what, **named)

    for what in ("dog/1.png", ".hidden"):
        monkeypatch.setattr(os, "open", opening(what))
        monkeypatch.setattr(os, "scandir", lambda p, w=what: refused(p, own=own_scan, what=w))
        if what == ".hidden":
            assert len(open_data(str(root), 8, 1)) == 2
        else:
            with pytest.raises(OvertoneError, match=r"dog/1\.png can't be read .*Permission"):
                open_data(str(root), 8, 1)
    monkeypatch.setattr(os, "scandir", lambda p: refused(p, own=own_scan, what="dog"))
    with pytest.raises(
        OvertoneError, match=r"the folder .*/dog can't be read \(Permission denied\)"
    ):
        open_data(str(root), 8, 1)
    monkeypatch.undo()


def test_files_that_vanish_are_named(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "it", parsed("cat/0.png cat/1.png"))
    own = os.open

    def vanishing(path, *rest, **named):
        if str(path).endswith("1.png"):
            Path(path).unlink(missing_ok=True)
        return own(path, *rest, **named)

    monkeypatch.setattr("overtone.storage.os.open", vanishing)
    with pytest.raises(OvertoneError, match=r"cat/1\.png can't be read \(.*No such file"):
        open_data(str(root), 8, 1)


def test_files_that_vanish_while_they_are_inspected(tmp_path, monkeypatch):
    """The contact sheet is drawn from what is read a second time."""
    root = write_folder(tmp_path / "it", parsed("cat/0.png cat/1.png"))
    times, own = {}, os.open

    def vanishing(path, *rest, **named):
        times[str(path)] = times.get(str(path), 0) + 1
        if str(path).endswith("1.png") and times[str(path)] == 3:
            Path(path).unlink()
        return own(path, *rest, **named)

    monkeypatch.setattr("overtone.storage.os.open", vanishing)
    found = inspect_data(str(root))
    assert (found.count, found.refused) == (2, [])
    assert len(found.sheet) == 1


def test_folders_far_within_each_other_end(tmp_path):
    deep = tmp_path / "it" / Path(*["d"] * 70)
    deep.mkdir(parents=True)
    (deep / "a.png").write_bytes(png())
    with pytest.raises(OvertoneError, match="is reached through more than 64 folders"):
        open_data(str(tmp_path / "it"), 8, 1)


def test_damaged_zips_are_one_line(tmp_path):
    whole = write_zip(
        tmp_path / "it.zip", parsed("cat/0.png dog/1.png dataset.json{}")
    ).read_bytes()
    draw = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for place in draw.integers(0, len(damaged), 6):
            damaged[place] = draw.integers(0, 256)
        (tmp_path / "it.zip").write_bytes(damaged)
        with contextlib.suppress(OvertoneError):
            open_data(str(tmp_path / "it.zip"), 8, 1)
            held_out(str(tmp_path / "it.zip"), 8, 1)


@pytest.mark.parametrize("field", ["state.json", "dataset_info.json", "dataset_dict.json"])
@pytest.mark.parametrize("content", ["", "[]", "{}", '{"_data_files": 3}', '{"splits": ["../x"]}'])
def test_damaged_saved_sets_are_one_line(tmp_path, field, content):
    (tmp_path / field).write_text(content)
    if field == "dataset_info.json":
        (tmp_path / "state.json").write_text("{}")
    with pytest.raises(OvertoneError, match="can't be opened"):
        open_data(f"hf:{tmp_path}", 8, 1)


def test_a_picture_of_more_pixels_than_its_file_can_fill_is_refused(tmp_path):
    """A header of a few bytes can claim any size, and some formats fill in what is missing."""
    content = io.BytesIO()
    Image.new("L", (8, 8)).save(content, "GIF")
    changed = bytearray(content.getvalue())
    changed[6:10] = struct.pack("<HH", 9_000, 9_000)
    (tmp_path / "b.gif").write_bytes(changed)
    with pytest.raises(OvertoneError, match=r"81,000,000 pixels in a file of \d+ bytes"):
        open_data(str(tmp_path), 8, 1)
