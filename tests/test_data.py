"""Images from folders, archives and downloads: what is read, shrunk, refused and counted."""

import dataclasses
import gzip
import json
import struct
import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from overtone.data import ArrayData, held_out, open_data, public_name, to_pixels, to_unit
from overtone.data.builtin import DEBIAN_FASHION, FONTS, Glyphs, _font, read_idx
from overtone.data.inspect import inspect_data
from overtone.data.reading import read_item
from overtone.errors import OvertoneError
from overtone.processes import SeededNoise
from overtone.processes.noise import mix
from overtone.training.classifier import ClassificationObjective
from overtone.training.objectives import DenoisingObjective
from overtone.training.stream import TrainingStream


def picture(size, mode="RGB"):
    array = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(array).convert(mode)


@pytest.fixture
def folder(tmp_path):
    """Two classes, three formats, three sizes."""
    for name, file, size, mode in [
        ("cat", "a.png", (20, 16), "RGB"),
        ("cat", "b.jpg", (16, 16), "L"),
        ("dog", "deep/c.webp", (64, 80), "RGB"),
    ]:
        path = tmp_path / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(size, mode).save(path)
    return tmp_path


def test_digits_are_scikit_learns():
    train, test = open_data("builtin:digits", 8, 1), held_out("builtin:digits", 8, 1)
    assert (len(train), len(test), train.num_classes) == (1500, 297, 10)
    pixels, labels = train.fetch([0, 1499])
    assert pixels.shape == (2, 1, 8, 8)
    assert labels[0] == 0
    assert pixels[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]  # 0 0 5 13 9 1 0 0 of 16


def test_glyphs_are_a_function_of_seed_split_and_index():
    first, again = Glyphs(16), Glyphs(16)
    alone = again.fetch([5])[0][0]
    assert torch.equal(first.fetch([3, 5])[0][1], alone)
    assert not torch.equal(Glyphs(16, seed=1).fetch([5])[0][0], alone)
    assert not torch.equal(Glyphs(16, split="test").fetch([5])[0][0], alone)
    assert first.fetch([0, 27, 10**9])[1].tolist() == [0, 1, 10**9 % 26]


@pytest.mark.parametrize("font", FONTS)
def test_every_font_draws_26_different_letters(font):
    masks = {bytes(_font(font, 32).getmask(letter)) for letter in Glyphs.class_names}
    assert len(masks) == 26
    assert isinstance(_font(font, 32), ImageFont.FreeTypeFont)


@pytest.mark.parametrize("resolution", [8, 33, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_glyphs_have_ink_at_any_resolution(resolution, channels):
    pixels, _ = Glyphs(resolution, channels).fetch(range(26))
    assert pixels.shape == (26, channels, resolution, resolution)
    ranges = (pixels.amax((2, 3)).int() - pixels.amin((2, 3)).int()).amax(1)
    assert int(ranges.min()) > 40


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(1, 6)),
    classes=st.integers(0, 3),
)
def test_arrays_come_back_as_they_are(shape, classes):
    count, channels, side = shape
    images = np.random.default_rng(1).integers(0, 256, (count, channels, side, side), np.uint8)
    labels = np.arange(count) % classes if classes else None
    data = ArrayData("a", images, labels, [str(i) for i in range(classes)])
    pixels, found = data.fetch([count - 1, 0])
    assert np.array_equal(pixels.numpy(), images[[count - 1, 0]])
    assert found.tolist() == ([0, 0] if labels is None else [labels[-1], labels[0]])
    assert (data.channels, data.resolution, data.num_classes) == (channels, side, classes)
    assert torch.equal(to_pixels(to_unit(pixels)), pixels)


def test_to_pixels_rounds_and_clips():
    values = torch.tensor([-1.2, -1.0, 0.0, 0.999, 1.0, 7.0]).view(1, 1, 1, 6)
    assert to_pixels(values).flatten().tolist() == [0, 0, 128, 255, 255, 255]


def test_folders_are_read_with_their_classes(folder):
    data = open_data(str(folder), 16, 3)
    assert (len(data), data.class_names) == (3, ("cat", "dog"))
    pixels, labels = data.fetch([0, 1, 2])
    assert labels.tolist() == [0, 0, 1]
    # The centre of the 20 x 16 picture, untouched.
    with Image.open(folder / "cat" / "a.png") as image:
        expected = np.asarray(image)[:, 2:18].transpose(2, 0, 1)
    assert np.array_equal(pixels[0].numpy(), expected)
    assert torch.equal(pixels[1, 0], pixels[1, 2])  # grey, three times
    assert open_data(str(folder), 16, 1).fetch([2])[0].shape == (1, 1, 16, 16)
    assert held_out(str(folder), 16, 3) is None


def test_folders_are_decoded_once_and_again_after_a_change(folder, monkeypatch):
    open_data(str(folder), 16, 3)
    monkeypatch.setattr("overtone.data.reading.read_item", lambda *_: pytest.fail("read again"))
    open_data(str(folder), 16, 3)
    monkeypatch.setattr("overtone.data.reading.read_item", read_item)
    picture((32, 32)).save(folder / "dog" / "d.png")
    assert len(open_data(str(folder), 16, 3)) == 4


def test_train_and_test_folders_are_splits(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("splits")
    for split, count in (("train", 3), ("test", 2)):
        (root / split).mkdir()
        for i in range(count):
            picture((8, 8)).save(root / split / f"{i}.png")
    assert len(open_data(str(root), 8, 3)) == 3
    assert len(held_out(str(root), 8, 3)) == 2
    assert open_data(str(root), 8, 3).num_classes == 0


def test_a_corrupt_jpeg_is_named_and_skipped_only_when_told_to(folder):
    good = (folder / "cat" / "b.jpg").read_bytes()
    (folder / "cat" / "bad.jpg").write_bytes(good[: len(good) // 2])
    with pytest.raises(OvertoneError, match=r"bad\.jpg can't be read .*--skip-bad-images"):
        open_data(str(folder), 16, 3)
    data = open_data(str(folder), 16, 3, skip_bad=True)
    assert data.fetch(range(3))[1].tolist() == [0, 0, 1]
    assert len(data) == 3


def test_images_smaller_than_the_resolution_are_named(folder):
    with pytest.raises(OvertoneError, match=r"a\.png is 20 x 16, smaller than the resolution 32"):
        open_data(str(folder), 32, 3)


def test_folders_that_are_no_data_are_refused(folder, tmp_path_factory):
    with pytest.raises(OvertoneError, match="holds no images"):
        open_data(str(tmp_path_factory.mktemp("empty")), 8, 3)
    with pytest.raises(OvertoneError, match="does not exist"):
        open_data("no/such/folder", 8, 3)
    picture((16, 16)).save(folder / "stray.png")
    with pytest.raises(OvertoneError, match=r"beside them \(stray\.png\)"):
        open_data(str(folder), 16, 3)


def test_names_and_sizes_that_do_not_exist_are_refused():
    with pytest.raises(OvertoneError, match="did you mean 'builtin:digits'"):
        open_data("builtin:digit", 8, 1)
    with pytest.raises(OvertoneError, match="8 px and grey, not 16 px"):
        open_data("builtin:digits", 16, 1)
    with pytest.raises(OvertoneError, match="28 px or padded to 32 px, not 64"):
        open_data("fashion-mnist", 64, 1)
    with pytest.raises(OvertoneError, match="at least 8 px"):
        open_data("builtin:glyphs", 4, 3)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_folder_is_a_test_split(tmp_path, name):
    for split, count in (("train", 3), (name, 2)):
        (tmp_path / split).mkdir()
        for i in range(count):
            picture((8, 8)).save(tmp_path / split / f"{i}.png")
    assert len(open_data(str(tmp_path), 8, 3)) == 3
    assert len(held_out(str(tmp_path), 8, 3)) == 2


def test_hidden_files_and_a_single_top_folder_are_no_classes(tmp_path):
    names = ("pets/cat/a.png", "pets/dog/b.png", "__MACOSX/pets/cat/._a.png")
    name = edm_zip(tmp_path / "mac.zip", "absent", names)
    assert open_data(name, 8, 3).class_names == ("cat", "dog")
    for file in ("cat/a.png", "dog/b.gif", ".ipynb_checkpoints/a.png"):
        (tmp_path / "set" / file).parent.mkdir(parents=True, exist_ok=True)
        picture((8, 8)).save(tmp_path / "set" / file)
    assert open_data(str(tmp_path / "set"), 8, 3).class_names == ("cat", "dog")


def test_whole_numbers_beyond_16_bits_are_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 100_000, np.int32)).save(tmp_path / "a.tiff")
    with pytest.raises(OvertoneError, match="whole numbers from 100000 to 100000"):
        open_data(str(tmp_path), 8, 3)


def test_a_class_may_be_called_test(tmp_path):
    for name in ("test", "other"):
        (tmp_path / name).mkdir()
        picture((8, 8)).save(tmp_path / name / "a.png")
    assert open_data(str(tmp_path), 8, 3).class_names == ("other", "test")
    assert held_out(str(tmp_path), 8, 3) is None


def test_16_bit_and_turned_pictures_are_read_as_they_look(tmp_path):
    Image.fromarray(np.full((8, 8), 30_000, np.uint16)).save(tmp_path / "a.png")
    turned = picture((8, 16))
    exif = turned.getexif()
    exif[0x0112] = 3  # upside down
    turned.save(tmp_path / "b.png", exif=exif)
    pixels, _ = open_data(str(tmp_path), 8, 1).fetch([0, 1])
    assert pixels[0].unique().tolist() == [117]  # 30,000 / 257
    upright = np.asarray(turned.convert("L"))[4:12][::-1, ::-1]
    assert np.array_equal(pixels[1, 0].numpy(), upright)
    with pytest.raises(OvertoneError, match="1 or 3 channels, not 2"):
        open_data(str(tmp_path), 8, 2)


MODES = {
    "grey": (Image.fromarray(np.full((8, 8), 90, np.uint8)), [90, 90, 90], "grey made RGB"),
    "rgb": (Image.new("RGB", (8, 8), (10, 20, 30)), [10, 20, 30], None),
    "rgba": (Image.new("RGBA", (8, 8), (0, 100, 200, 51)), [204, 224, 244], "laid on white"),
    "opaque": (Image.new("RGBA", (8, 8), (1, 2, 3, 255)), [1, 2, 3], None),
    "grey, alpha": (Image.new("LA", (8, 8), (0, 0)), [255, 255, 255], "laid on white"),
    "cmyk": (Image.new("CMYK", (8, 8), (255, 0, 0, 0)), [0, 255, 255], "CMYK converted to RGB"),
    "16 bit": (Image.fromarray(np.full((8, 8), 257 * 7, np.uint16)), [7, 7, 7], "16 bits scaled"),
    "palette": (Image.new("RGB", (8, 8), (0, 0, 255)).convert("P"), [0, 0, 255], None),
    "bilevel": (Image.new("1", (8, 8), 1), [255, 255, 255], "grey made RGB"),
}


@pytest.mark.parametrize("name", MODES)
def test_every_kind_of_pixel_is_handled_and_said(tmp_path, name):
    image, expected, said = MODES[name]
    image.save(tmp_path / ("a.tiff" if name in ("cmyk", "16 bit") else "a.png"))
    data = open_data(str(tmp_path), 8, 3)
    assert data.fetch([0])[0][0, :, 4, 4].tolist() == expected
    if said is None:
        assert data.conversions == {}
    else:
        assert any(said in what for what in data.conversions)
        assert set(data.conversions.values()) == {1}


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(OvertoneError, match="floating-point pixels"):
        open_data(str(tmp_path), 8, 3)


def edm_zip(path, labels, names=("00000/a.png", "00000/b.png", "00001/c.png")):
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            content = BytesIO()
            Image.new("RGB", (8, 8), (number, 0, 0)).save(content, "png")
            archive.writestr(name, content.getvalue())
        if labels != "absent":
            archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return str(path)


def test_edms_zips_are_read_in_place(tmp_path):
    labels = [["00001/c.png", 0], ["00000/a.png", 2], ["00000/b.png", 1]]
    name = edm_zip(tmp_path / "cifar10.zip", labels)
    data = open_data(name, 8, 3)
    assert (len(data), data.class_names) == (3, ("0", "1", "2"))
    pixels, found = data.fetch([0, 1, 2])
    assert pixels[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert found.tolist() == [2, 1, 0]
    assert held_out(name, 8, 3) is None
    assert [f.name for f in tmp_path.iterdir()] == ["cifar10.zip"]
    # Unpacked, the folder means the same: its sub-folders are shards, not classes.
    with zipfile.ZipFile(name) as archive:
        archive.extractall(tmp_path / "folder")
    unpacked = open_data(str(tmp_path / "folder"), 8, 3)
    assert unpacked.fetch([0, 1, 2])[1].tolist() == [2, 1, 0]
    assert unpacked.fingerprint == data.fingerprint


def test_zips_without_labels_have_folders_for_classes_or_none(tmp_path):
    assert open_data(edm_zip(tmp_path / "a.zip", None), 8, 3).num_classes == 0
    plain = open_data(edm_zip(tmp_path / "b.zip", "absent"), 8, 3)
    assert plain.class_names == ("00000", "00001")


def test_zips_that_are_no_data_are_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK no")
    with pytest.raises(OvertoneError, match="can't be read as a zip"):
        open_data(str(tmp_path / "a.zip"), 8, 3)
    with pytest.raises(OvertoneError, match=r"no label for 00000/b\.png"):
        open_data(edm_zip(tmp_path / "b.zip", [["00000/a.png", 1]]), 8, 3)
    labels = [["00000/a.png", 1], ["00000/b.png", [0.2, 0.8]], ["00001/c.png", 0]]
    with pytest.raises(OvertoneError, match=r"b\.png is \[0\.2, 0\.8\], not a class label"):
        open_data(edm_zip(tmp_path / "c.zip", labels), 8, 3)
    with pytest.raises(OvertoneError, match="is not of the form"):
        open_data(edm_zip(tmp_path / "d.zip", {"a": 1}), 8, 3)
    damaged = bytearray((tmp_path / "b.zip").read_bytes())
    damaged[60:70] = b"x" * 10
    (tmp_path / "e.zip").write_bytes(damaged)
    with pytest.raises(OvertoneError):
        open_data(str(tmp_path / "e.zip"), 8, 3)
    with zipfile.ZipFile(tmp_path / "f.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(1000))
        archive.writestr("dataset.json", b"\xff\xfe")
    with pytest.raises(OvertoneError, match=r"dataset\.json can't be read"):
        open_data(str(tmp_path / "f.zip"), 8, 3)


def test_only_formats_of_pixels_are_opened_whatever_the_name(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    with pytest.raises(OvertoneError, match=r"a\.png can't be read \(not BMP"):
        open_data(str(tmp_path), 8, 3)


def test_names_of_data_that_are_published_tell_no_paths():
    assert public_name("builtin:digits") == "builtin:digits"
    assert public_name("hf:uoft-cs/cifar10") == "hf:uoft-cs/cifar10"
    assert public_name("/home/me/secret/cats") == "cats"
    assert public_name("hf:/home/me/secret/cats.parquet?limit=3") == "cats.parquet"


def test_inspection_counts_and_names_what_would_be_refused(folder):
    (folder / "cat" / "bad.png").write_bytes(b"nothing")
    found = inspect_data(str(folder), resolution=18)
    assert (found.count, found.classes) == (1, {"cat": 0, "dog": 1})
    assert dict(found.sizes) == {(20, 16): 1, (16, 16): 1, (64, 80): 1}
    assert found.sheet.shape == (1, 3, 64, 64)
    assert len(found.refused) == 3
    assert any("bad.png can't be read" in reason for reason in found.refused)
    assert any("a.png is 20 x 16, smaller than" in reason for reason in found.refused)
    assert inspect_data(str(folder)).count == 3
    assert dict(inspect_data(str(folder)).conversions) == {"grey made RGB": 1}


def test_inspection_of_builtin_data():
    found = inspect_data("builtin:digits", split="test")
    assert (found.count, sum(found.classes.values())) == (297, 297)
    glyphs = inspect_data("builtin:glyphs", 16)
    assert glyphs.sheet.shape == (64, 3, 16, 16)
    assert list(glyphs.classes) == list(Glyphs.class_names)


def test_labels_outside_the_classes_are_refused():
    with pytest.raises(OvertoneError, match="labels go from 0 to 5, outside the 2 classes"):
        ArrayData("a", np.zeros((2, 1, 4, 4), np.uint8), np.array([0, 5]), ["x", "y"])


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_fashion_mnist_is_found_padded_and_checked(tmp_path, monkeypatch):
    root = tmp_path / "fashion-mnist"
    root.mkdir()
    monkeypatch.setenv("OVERTONE_DATA", str(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        write_idx(root / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(root / f"{part}-labels-idx1-ubyte.gz", np.array([0, 9, 3, 1], np.uint8))
    data = open_data("fashion-mnist", 32, 1)
    assert (len(data), data.num_classes) == (4, 10)
    assert data.resize_rule == "padded from 28 to 32 with black"
    pixels, labels = data.fetch([1])
    assert np.array_equal(pixels[0, 0, 2:30, 2:30].numpy(), images[1])
    assert int(pixels[0, 0, 0].max()) == 0
    assert labels.tolist() == [9]

    write_idx(root / "train-labels-idx1-ubyte.gz", np.array([0, 9], np.uint8))
    with pytest.raises(OvertoneError, match="and 2 labels, not"):
        open_data("fashion-mnist", 28, 1)
    file = root / "t10k-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[:40] + b"\x55" * 40 + whole[80:])
    with pytest.raises(OvertoneError, match="damaged"):
        read_idx(file)
    file.write_bytes(whole)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(OvertoneError, match="damaged"):
        read_idx(file)
    (root / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(OvertoneError, match=r"damaged|missing"):
        held_out("fashion-mnist", 28, 1)


def test_missing_fashion_mnist_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("OVERTONE_DATA", str(tmp_path))
    monkeypatch.setattr("overtone.data.builtin.DEBIAN_FASHION", tmp_path / "none")
    with pytest.raises(OvertoneError, match=r"not on the Hub either.*OVERTONE_DATA.*apt-get"):
        open_data("fashion-mnist", 28, 1)


@pytest.mark.skipif(not DEBIAN_FASHION.exists(), reason="Debian's dataset-fashion-mnist is absent")
def test_debians_fashion_mnist():
    assert len(open_data("fashion-mnist", 28, 1)) == 60_000
    assert len(held_out("fashion-mnist", 28, 1)) == 10_000


DIGITS = open_data("builtin:digits", 8, 1)
OBJECTIVES = [
    DenoisingObjective(num_classes=10, label_dropout=0.3, mirror=True),
    DenoisingObjective(num_classes=10, augmentation=0.5),
]


@given(n=st.integers(0, 5000), others=st.lists(st.integers(0, 5000), max_size=4))
@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize("objective", [*OBJECTIVES, ClassificationObjective()])
def test_training_images_depend_on_their_number_alone(objective, n, others):
    stream = TrainingStream(DIGITS, objective, seed=7)
    alone, among = stream.__getitems__([n]), stream.__getitems__([*others, n])
    for name, tensor in alone.items():
        assert torch.equal(tensor[0], among[name][-1])


def test_batches_cut_the_stream_in_any_way():
    stream = TrainingStream(DIGITS, OBJECTIVES[0], seed=0)
    whole = torch.cat([b["noise"] for b in stream.batches(0, 48, 16)])
    assert torch.equal(torch.cat([b["noise"] for b in stream.batches(0, 48, 24)]), whole)
    assert torch.equal(torch.cat([b["noise"] for b in stream.batches(16, 48, 16)]), whole[16:])
    halves = [list(stream.batches(0, 48, 16, share=slice(r, None, 2))) for r in range(2)]
    assert torch.equal(halves[1][2]["noise"], whole[33:48:2])


def test_every_pass_is_another_permutation():
    stream = TrainingStream(DIGITS, OBJECTIVES[0], seed=0)
    passes = [[stream.index(e * 1500 + i) for i in range(1500)] for e in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(1500))
    assert passes[0] != passes[1]


def test_labels_are_dropped_and_images_mirrored_as_often_as_asked():
    n = 4000
    batch = OBJECTIVES[0].draw(
        torch.arange(8.0).expand(n, 1, 8, 8),
        torch.zeros(n, dtype=torch.int64),
        SeededNoise(mix(1, i) for i in range(n)),
    )
    # Binomial: 5 standard deviations, exceeded with probability 6e-7.
    dropped = int((batch["class_labels"] == 10).sum())
    assert abs(dropped - 0.3 * n) < 5 * (n * 0.3 * 0.7) ** 0.5
    mirrored = int((batch["x_0"][:, 0, 0, 0] > batch["x_0"][:, 0, 0, 7]).sum())
    assert abs(mirrored - 0.5 * n) < 5 * (n * 0.25) ** 0.5
    plain = dataclasses.replace(OBJECTIVES[0], mirror=False, label_dropout=0.0, num_classes=0)
    assert "class_labels" not in plain.draw(
        torch.zeros(2, 1, 8, 8), torch.zeros(2).long(), SeededNoise([1, 2])
    )
