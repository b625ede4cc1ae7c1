"""Batches of samples as ADM writes them: opened where they lie, and written."""

import io
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from overtone.cli.app import main
from overtone.cli.model import is_images
from overtone.data import open_data, public_name, write_batch
from overtone.data.inspect import inspect_data
from overtone.data.open import held_out, open_source
from overtone.errors import OvertoneError
from overtone.storage import cache_directory


def images_of(count=10, size=8, channels=3, seed=0):
    shape = count, size, size, channels
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


LABELS = np.array([2, 0, 1, 1, 0, 2, 2, 0, 1, 0], np.int32)


def as_pictures(folder, images, labels=None):
    for number, pixels in enumerate(images):
        own = folder if labels is None else folder / str(labels[number])
        own.mkdir(parents=True, exist_ok=True)
        shown = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
        Image.fromarray(shown).save(own / f"{number:04}.png")
    return str(folder)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_wrote_is_read_where_it_is_or_unpacked(tmp_path, save):
    save(tmp_path / "a.npz", images_of(), LABELS)
    data = open_data(str(tmp_path / "a.npz"), 8, 3)
    pixels, labels = data.fetch([3, 0, 9, 3])
    assert np.array_equal(pixels.permute(0, 2, 3, 1).numpy(), images_of()[[3, 0, 9, 3]])
    assert labels.tolist() == LABELS[[3, 0, 9, 3]].tolist()
    assert (data.class_names, len(data), data.class_counts()) == (("0", "1", "2"), 10, [4, 3, 3])
    assert pickle.loads(pickle.dumps(data)).fetch([5])[0].equal(data.fetch([5])[0])


def test_the_bytes_of_an_unpacked_file_are_not_copied(tmp_path):
    np.savez(tmp_path / "a.npz", images_of(64, 32, seed=5))
    before = {f for f in cache_directory().rglob("*") if f.is_file()}
    open_data(str(tmp_path / "a.npz"), 32, 3).fetch(range(64))
    new = [f for f in cache_directory().rglob("*") if f.is_file() and f not in before]
    assert sum(f.stat().st_size for f in new) < 1000


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", [8, 5])
@pytest.mark.parametrize("planes", [1, 3])
def test_as_the_same_pictures_in_files(tmp_path, planes, resolution, channels):
    """Grey made RGB, colour made grey, sizes reduced: to the bit what files would become."""
    images = images_of(channels=planes)
    np.savez(tmp_path / "a.npz", images)
    folder = as_pictures(tmp_path / "files", images)
    own = open_data(str(tmp_path / "a.npz"), resolution, channels)
    other = open_data(folder, resolution, channels)
    assert own.fetch(range(10))[0].equal(other.fetch(range(10))[0])
    assert own.fingerprint == other.fingerprint
    assert own.resize_rule == other.resize_rule


def test_labels_count_towards_the_fingerprint_as_those_of_files_do(tmp_path):
    order = np.argsort(LABELS, kind="stable")
    np.savez(tmp_path / "a.npz", images_of()[order], LABELS[order])
    np.savez(tmp_path / "b.npz", images_of()[order])
    folder = as_pictures(tmp_path / "files", images_of(), LABELS)
    own = open_data(str(tmp_path / "a.npz"), 8, 3)
    assert own.fingerprint == open_data(folder, 8, 3).fingerprint
    assert own.fingerprint != open_data(str(tmp_path / "b.npz"), 8, 3).fingerprint


def test_oblong_images_lose_their_ends(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images)
    data = open_data(str(tmp_path / "a.npz"), 8, 3)
    assert np.array_equal(data.fetch([1])[0][0].permute(1, 2, 0).numpy(), images[1, :, 2:10])


def test_a_single_array_and_names_of_numpys(tmp_path):
    np.save(tmp_path / "a.npy", images_of())
    np.savez(tmp_path / "b.NPZ.npz", arr_0=images_of(), arr_1=LABELS.astype(np.uint8))
    os.rename(tmp_path / "b.NPZ.npz", tmp_path / "b.NPZ")
    for name in ("a.npy", "b.NPZ"):
        data = open_data(str(tmp_path / name), 8, 3)
        assert np.array_equal(data.fetch([7])[0][0].permute(1, 2, 0).numpy(), images_of()[7])
        assert held_out(str(tmp_path / name), 8, 3) is None
        assert public_name(str(tmp_path / name)) == name
    with pytest.raises(OvertoneError, match="has no test split"):
        open_data(str(tmp_path / "a.npy"), 8, 3, split="test")


def test_a_reference_with_statistics_beside_its_images_is_data_and_says_so(tmp_path):
    more = {"mu": np.zeros(3), "sigma": np.eye(3), "note": np.array("x")}
    np.savez(tmp_path / "a.npz", arr_0=images_of(), **more)
    assert open_data(str(tmp_path / "a.npz"), 8, 3).notes == [
        "mu, sigma beside the images are statistics, and no images",
        "note beside the images are not read",
    ]


def test_changes_between_opening_and_reading_are_errors(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, images_of())
    data = open_data(str(file), 8, 3)
    np.savez(file, images_of(seed=1))
    with pytest.raises(OvertoneError, match="has changed since it was opened"):
        data.fetch([0])
    again = open_data(str(file), 8, 3)
    assert again.fingerprint != data.fingerprint
    with file.open("r+b") as opened:
        opened.truncate(1000)
    with pytest.raises(OvertoneError, match="has changed since it was opened"):
        again.fetch([9])


def test_unpacked_images_cut_short_in_the_cache_are_unpacked_again(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", images_of(seed=3))
    data = open_data(str(tmp_path / "a.npz"), 8, 3)
    with data.rows.file.open("r+b") as file:
        file.truncate(100)
    assert np.array_equal(
        open_data(str(tmp_path / "a.npz"), 8, 3).fetch([9])[0][0].permute(1, 2, 0).numpy(),
        images_of(seed=3)[9],
    )


# What is refused.


def member(content, name="arr_0.npy", **options):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **options) as archive:
        archive.writestr(name, content)
    return out.getvalue()


def array(value):
    out = io.BytesIO()
    np.save(out, value, allow_pickle=True)
    return out.getvalue()


def header(descr="|u1", shape="(10, 8, 8, 3)", order="False", version=1, pad=0):
    text = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}" + " " * pad
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode()


def saved(save=np.savez, **arrays):
    out = io.BytesIO()
    save(out, **arrays)
    return out.getvalue()


def lying(size):
    """A zip whose directory says that its member has other sizes than it has."""
    content = bytearray(member(header() + bytes(1920)))
    at = content.index(b"PK\1\2")
    struct.pack_into("<2L", content, at + 20, size, size)
    return bytes(content)


def at_once(content, mark, change):
    place = content.index(mark)
    return content[:place] + change + content[place + len(change) :]


def flipped(content, place, behind=0):
    """With the lowest bit of a byte turned, at a place or behind a mark."""
    at = (place if isinstance(place, int) else content.index(place)) + behind
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def vast():
    """Some kilobytes that would be two gigabytes, without making them."""
    return at_once(
        member(header(), compression=zipfile.ZIP_DEFLATED),
        b"PK\1\2",
        struct.pack("<4s6H3L", b"PK\1\2", 20, 20, 0, 8, 0, 0, 0, 80, 2**31),
    )


def directory(size):
    """A zip that says its directory is this long."""
    content = bytearray(member(header() + bytes(1920)) + bytes(size))
    end = content.index(b"PK\5\6")
    tail = content[end : end + 22]
    struct.pack_into("<L", tail, 12, size)
    return bytes(content[:end]) + bytes(size) + bytes(tail)


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


OBJECTS = np.empty(10, object)
OBJECTS[:] = [Evil()] * 10
GOOD = images_of()
REFUSED = {
    "objects": (lambda: saved(arr_0=OBJECTS), "arr_0 is of Python's objects"),
    "object labels": (lambda: saved(arr_0=GOOD, arr_1=OBJECTS), "arr_1 is of Python's objects"),
    "a pickle": (lambda: pickle.dumps(GOOD), "it is a pickle"),
    "a pickle in a zip": (lambda: member(pickle.dumps(GOOD)), "arr_0 is not an array of NumPy's"),
    "floats": (lambda: saved(arr_0=GOOD / 255), "arr_0 is of float64: images are of uint8"),
    "int64": (lambda: saved(arr_0=GOOD.astype(int)), "arr_0 is of int64"),
    "fields": (
        lambda: member(header("[('a', '|u1')]".strip(), "(1, 1, 1, 1)") + b"\0"),
        "the header of its array arr_0 can't be read",
    ),
    "rank 3": (lambda: saved(arr_0=GOOD[:, :, :, 0]), r"it is \(count, height, width, channels\)"),
    "channels first": (lambda: saved(arr_0=GOOD.transpose(0, 3, 1, 2).copy()), "channels last"),
    "4 channels": (lambda: saved(arr_0=np.repeat(GOOD, 4, 3)[..., :4]), "with 1 or 3 channels"),
    "nothing": (lambda: saved(arr_0=GOOD[:0]), "and so no images"),
    "0 px": (lambda: saved(arr_0=GOOD[:, :0]), "and so no images"),
    "Fortran": (lambda: saved(arr_0=np.asfortranarray(GOOD)), "is in Fortran's order"),
    "other names": (lambda: saved(images=GOOD), "holds images, and no images as arr_0"),
    "statistics": (lambda: saved(mu=GOOD, sigma=GOOD), "it is a reference of features"),
    "empty": (lambda: b"", "it is cut short, or no such file"),
    "no zip": (lambda: b"no zip at all" * 10, "it is cut short, or no such file"),
    "an image": (lambda: b"\x89PNG" + bytes(100), "it is an image"),
    "cut in the directory": (lambda: saved(arr_0=GOOD)[:-30], "cut short"),
    "cut in front": (lambda: saved(arr_0=GOOD)[200:], "can't be read"),
    "header promises more": (
        lambda: member(header(shape="(10, 99, 8, 3)") + bytes(1920)),
        r"says that it is \(10, 99, 8, 3\) of uint8, which are 23,760 bytes, and 1,920 are there",
    ),
    "header promises less": (lambda: member(header() + bytes(1921)), "1,920 bytes, and 1,921 are"),
    "a shape beyond all": (
        lambda: member(header(shape=f"({2**62}, 8, 8, 3)") + bytes(1920)),
        "header of its array arr_0 can't be read",
    ),
    "a negative shape": (lambda: member(header(shape="(-1, 8, 8, 3)")), "can't be read"),
    "a shape of words": (lambda: member(header(shape="('a', 8, 8, 3)")), "can't be read"),
    "a header that calls": (
        lambda: member(header(shape="__import__('os').system('touch executed')")),
        "header of its array arr_0 can't be read",
    ),
    "a header of brackets": (lambda: member(header(shape="(" * 9000)), "can't be read"),
    "a long header": (lambda: member(header(pad=20_000)), "header of its array arr_0 has 20,0"),
    "version 3": (lambda: member(header(version=3) + bytes(1920)), "a header of version 3"),
    "directory promises more": (lambda: lying(2**31), "ends behind the end of the file"),
    "directory promises less": (lambda: lying(1000), "copy or download it again"),
    "a wrong checksum": (
        lambda: at_once(saved(arr_0=GOOD), GOOD[5].tobytes()[:4], b"\1\2\3\4"),
        "Bad CRC-32.*copy or download it again",
    ),
    "packed and damaged": (
        lambda: flipped(saved(np.savez_compressed, arr_0=GOOD), 1000),
        "can't be read .*copy or download it again",
    ),
    "a bomb": (vast, "would become 2,147,483,648: write it with np.savez"),
    "a long directory": (lambda: directory(2**21), "its directory has 2,097,152 bytes"),
    "encrypted": (
        lambda: flipped(member(header() + bytes(1920)), b"PK\1\2", 8),
        "arr_0 is encrypted",
    ),
    "bzip2": (
        lambda: member(header() + bytes(1920), compression=zipfile.ZIP_BZIP2),
        "arr_0 is packed in the way 12",
    ),
    "labels too few": (lambda: saved(arr_0=GOOD, arr_1=LABELS[:9]), "one whole number for each of"),
    "labels of floats": (lambda: saved(arr_0=GOOD, arr_1=LABELS / 2), "arr_1 is of float64"),
    "labels one-hot": (lambda: saved(arr_0=GOOD, arr_1=np.eye(10, dtype=int)), "the shape"),
    "labels below 0": (lambda: saved(arr_0=GOOD, arr_1=LABELS - 1), "arr_1 goes from -1 to 1"),
    "labels beyond all": (lambda: saved(arr_0=GOOD, arr_1=LABELS * 10**6), "to 2000000"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_so_in_one_line_soon_and_leaves_nothing(tmp_path, monkeypatch, name):
    make, message = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.npz").write_bytes(make())
    kept = sorted(cache_directory().rglob("*"))
    start = time.perf_counter()
    with pytest.raises(OvertoneError, match=message) as caught:
        open_data(str(tmp_path / "a.npz"), 8, 3)
    assert time.perf_counter() - start < 2
    assert len(str(caught.value).splitlines()) == 1
    assert str(tmp_path / "a.npz") in str(caught.value)
    assert os.listdir(tmp_path) == ["a.npz"]
    whole = [f for f in sorted(cache_directory().rglob("*")) if f.is_file() and f not in kept]
    assert whole == []


def test_two_arrays_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", array(GOOD))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("arr_0.npy", array(GOOD))
    with pytest.raises(OvertoneError, match="two arrays of one name"):
        open_data(str(tmp_path / "a.npz"), 8, 3)


def test_pipes_and_missing_files(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(OvertoneError, match="neither a folder nor a file"):
        open_data(str(tmp_path / "a.npz"), 8, 3)
    for name in ("gone.npz", "gone.npy", "gone.parquet"):
        with pytest.raises(OvertoneError, match="does not exist"):
            open_data(name, 8, 3)


def test_images_smaller_than_wanted_are_named_and_may_be_left_out(tmp_path):
    np.savez(tmp_path / "a.npz", images_of())
    with pytest.raises(OvertoneError, match=r"a\.npz row 0 is 8 x 8, smaller than the resolution"):
        open_data(str(tmp_path / "a.npz"), 16, 3)
    with pytest.raises(OvertoneError, match="smaller"):
        open_data(str(tmp_path / "a.npz"), 16, 3, skip_bad=True)


# What is written.


def in_parts(images, labels=None, size=3):
    rows = torch.from_numpy(images).permute(0, 3, 1, 2)
    for at in range(0, len(images), size):
        part = slice(at, at + size)
        yield rows[part], None if labels is None else torch.from_numpy(labels[part])


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("channels", [1, 3])
def test_numpy_reads_what_is_written(tmp_path, labels, channels):
    images = images_of(channels=channels)
    write_batch(tmp_path / "a.npz", in_parts(images, labels), 10)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as there:
        assert there.files == (["arr_0"] if labels is None else ["arr_0", "arr_1"])
        assert there["arr_0"].dtype == np.uint8
        assert np.array_equal(there["arr_0"], images)
        assert labels is None or np.array_equal(there["arr_1"], labels)
    data = open_data(str(tmp_path / "a.npz"), 8, channels)
    assert np.array_equal(data.fetch(range(10))[0].permute(0, 2, 3, 1).numpy(), images)
    first = (tmp_path / "a.npz").read_bytes()
    write_batch(tmp_path / "a.npz", in_parts(images, labels, 4), 10)
    assert (tmp_path / "a.npz").read_bytes() == first  # whatever the batches and the day


def test_what_can_not_be_written_leaves_what_was_there(tmp_path):
    file = tmp_path / "a.npz"
    write_batch(file, in_parts(GOOD), 10)
    before = file.read_bytes()

    def failing():
        yield next(in_parts(GOOD))
        raise OvertoneError("the model made images that are not finite.")

    for batches, count in ((in_parts(GOOD), 11), (in_parts(GOOD), 9), (in_parts(GOOD[:0]), 0)):
        with pytest.raises(ValueError, match="images"):
            write_batch(file, batches, count)
    with pytest.raises(OvertoneError, match="not finite"):
        write_batch(file, failing(), 10)
    several = [*in_parts(GOOD), *in_parts(images_of(size=9))]
    with pytest.raises(ValueError, match="a batch of images is"):
        write_batch(file, several, 20)
    with pytest.raises(OvertoneError, match=r"go into an \.npz file"):
        write_batch(tmp_path / "a.zip", in_parts(GOOD), 10)
    with pytest.raises(OvertoneError, match="could not write"):
        write_batch(file / "b.npz", in_parts(GOOD), 10)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.npz"]


MANY = """
import resource, sys, torch
from overtone.data import open_data, write_batch
count = int(sys.argv[2])
def batches():
    for at in range(0, count, 100):
        images = torch.full((100, 3, 64, 64), at // 100 % 256, dtype=torch.uint8)
        yield images, torch.zeros(100).long()
write_batch(sys.argv[1], batches(), count)
data = open_data(sys.argv[1], 64, 3)
for at in range(0, count, 100):
    assert int(data.fetch(range(at, at + 100))[0].max()) == at // 100 % 256
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """1,000 and 20,000 images, 12 MB and 246 MB, written and read."""
    peaks = []
    for count in (1000, 20_000):
        command = [sys.executable, "-c", MANY, str(tmp_path / "a.npz"), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] * 1.05


# Commands.


def test_data_inspect_reads_arrays(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "a.npz", images_of(channels=1), LABELS)
    main(["data", "inspect", "a.npz", "--resolution", "8"])
    out = capsys.readouterr().out
    assert "10 images" in out
    assert "size: 8 x 8" in out
    assert "grey made RGB: 10 images" in out
    assert "3 classes" in out
    assert (tmp_path / "contact-sheet.png").exists()
    assert is_images("a.npz")
    assert inspect_data("a.npz", 8, 1).count == 10
    assert open_source("a.npz", "test") is None
