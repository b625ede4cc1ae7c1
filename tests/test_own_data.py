"""Data of one's own: objects, arrays, torch's data sets, and names for them."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from helpers import TINY_DIFFIT
from overtone import settings
from overtone.cli.app import main
from overtone.data import data_set, held_out, open_data, own_data
from overtone.data.names import OPENERS
from overtone.errors import OvertoneError
from overtone.pipelines import load_pipeline
from overtone.runs import find_checkpoint
from overtone.training import Reporting, Training, find_recipe, train
from overtone.training.material import Given, material_of

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8), dtype=np.uint8)
LABELS = [n % 3 for n in range(12)]


class Fetching:
    """The least that a data set of one's own has."""

    class_names = ("a", "b", "c")
    fingerprint = "fetching 1"

    def __len__(self):
        return 12

    def fetch(self, indices):
        return torch.from_numpy(PIXELS[indices]), torch.tensor([LABELS[i] for i in indices])


class Items(Dataset):
    """A map-style data set as torch's, of Pillow's images."""

    classes = ("a", "b", "c")

    def __init__(self, make=Image.fromarray):
        self.make = make

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return self.make(PIXELS[index, 0]), LABELS[index]


def with_labels(images):
    return images, LABELS, ("a", "b", "c")


@pytest.mark.parametrize(
    "value",
    [
        Fetching(),
        Items(),
        Items(lambda pixels: torch.from_numpy(pixels[None].copy())),
        Items(lambda pixels: pixels.astype(np.float32) / 255),
        with_labels(PIXELS),
        with_labels(PIXELS[:, 0]),
        with_labels(np.moveaxis(PIXELS, 1, 3)),
        with_labels(torch.from_numpy(PIXELS)),
        with_labels(torch.from_numpy(PIXELS).float() / 255),
        with_labels(torch.from_numpy(PIXELS).float() / 127.5 - 1),
        [{"image": Image.fromarray(p[0]), "label": n} for p, n in zip(PIXELS, LABELS, strict=True)],
        TensorDataset(torch.from_numpy(PIXELS).float() / 255, torch.tensor(LABELS)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_way_gives_the_same_images_and_classes(value):
    data = own_data(value, 8, 1, "mine")
    images, labels = data.fetch(list(range(12)))
    assert torch.equal(images, torch.from_numpy(PIXELS))
    assert labels.tolist() == LABELS
    assert data.num_classes == 3
    assert (len(data), data.name, data.resolution, data.channels) == (12, "mine", 8, 1)
    assert data.fingerprint
    again = own_data(value, 8, 1)
    assert again.fingerprint == data.fingerprint


def fetching(**changes):
    return type("Changed", (Fetching,), changes)()


class Features:
    """As a Hugging Face data set's, with a ClassLabel."""

    def __init__(self):
        self.features = {"label": type("ClassLabel", (), {"names": ["a", "b", "c"]})()}

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return {"image": Image.fromarray(PIXELS[index, 0]), "label": LABELS[index]}


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (Features(), "abc"),
        (fetching(class_names=np.array(["a", "b", "c"])), "abc"),
        (fetching(class_names={"c": 2, "a": 0, "b": 1}), "abc"),
        (fetching(class_names={2: "c", 0: "a", 1: "b"}), "abc"),
        (fetching(class_names=None, classes=3), "012"),
        ((PIXELS, np.array(LABELS)[:, None], None), "012"),
        ((PIXELS, LABELS, {"c": 2, "a": 0, "b": 1}), "abc"),
        ((PIXELS, LABELS, {2: "c", 0: "a", 1: "b"}), "abc"),
        ((torch.from_numpy(PIXELS).bfloat16() / 255, torch.tensor(LABELS), list("abc")), "abc"),
    ],
)
def test_names_of_classes_wherever_they_are(value, names):
    data = own_data(value, 8, 1)
    assert data.class_names == tuple(names)
    assert data.fetch([0, 4])[1].tolist() == [0, 1]


def test_channels_first_and_last():
    colour = np.random.default_rng(3).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    wanted = torch.from_numpy(colour)
    for items in (
        list(torch.from_numpy(colour)),
        tuple(torch.from_numpy(colour)),
        list(colour),
        list(np.moveaxis(colour, 1, 3)),
        [{"image": image} for image in colour],
    ):
        assert torch.equal(own_data(items, 8, 3).fetch(range(5))[0], wanted)


def test_floats_mean_the_same_in_data_and_held_out():
    signed = (PIXELS.astype(np.float32) / 127.5 - 1).clip(-1, 1)
    positive = np.abs(signed)
    given = Given((signed, LABELS), (positive, LABELS))
    recipe = tiny()
    data, held_out, _ = material_of(recipe, given, show=False)
    assert torch.equal(data.fetch(range(12))[0], torch.from_numpy(PIXELS))
    wanted = ((positive + 1) * 127.5).round().astype(np.uint8)
    assert torch.equal(held_out.fetch(range(12))[0], torch.from_numpy(wanted))


def test_images_alone_have_no_classes_and_other_sizes_are_cropped():
    data = own_data(PIXELS, 8, 1)
    assert data.num_classes == 0
    big = [Image.fromarray(np.kron(p[0], np.ones((2, 3), np.uint8))) for p in PIXELS]
    data = own_data(big, 8, 3)
    assert tuple(data.fetch([0, 5])[0].shape) == (2, 3, 8, 8)
    assert data.conversions == {"grey made RGB": 12}
    floats = own_data(PIXELS.astype(np.float64) / 255, 8, 1)
    assert floats.conversions == {"floats in [0, 1] scaled to 8 bits": 12}


def test_other_pixels_or_labels_have_another_fingerprint():
    changed = PIXELS.copy()
    changed[3, 0, 2, 2] ^= 1
    every = [
        own_data(with_labels(PIXELS), 8, 1),
        own_data(with_labels(changed), 8, 1),
        own_data((PIXELS, LABELS[::-1], ("a", "b", "c")), 8, 1),
        own_data(PIXELS, 8, 1),
    ]
    assert len({data.fingerprint for data in every}) == 4


class Stream(IterableDataset):
    def __iter__(self):
        return iter(PIXELS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "int is not a data set: it needs a length and items"),
        (Stream(), "Stream is not a data set"),
        ([], "list has no images"),
        (PIXELS[:0], "ndarray has no images"),
        (PIXELS[0, 0], r"has the shape \(8, 8\)"),
        (np.zeros((2, 3, 8, 3), np.uint8), "can't be told where the channels are"),
        (np.zeros((2, 2, 8, 8), np.uint8), "can't be told where the channels are"),
        (PIXELS.astype(np.int64), r"its values are int64 from \d to \d+: uint8, or floats that"),
        (PIXELS / 127.5 - 1.1, r"its values are float64 from -1.1 to .*: uint8, or floats that"),
        (PIXELS / 25.0, r"its values are float64 from .* to .*: uint8, or floats that"),
        (PIXELS * np.nan, "nan"),
        ((PIXELS, LABELS[:5]), "has 5 labels for 12 images"),
        ((PIXELS, [-1] * 12), "labels count from 0"),
        ((PIXELS, [0.5] * 12), "is one whole number, not 0.5"),
        ((PIXELS, ["cat"] * 12), "is one whole number, not 'cat'"),
        ((PIXELS, LABELS, ("a", "b")), "outside the 2 classes"),
        ((PIXELS, None, ("a", "b")), "names 2 classes, and has no labels"),
        ([(PIXELS[0, 0], 1), (PIXELS[1, 0], None)], "1 of 2 images have no label"),
        (["a.png", "b.png"], r"list\[0\] can't be read \(a str is not an image\)"),
        ([{"picture": 3}], r"list\[0\] has no 'image': picture"),
        ([Image.new("L", (4, 9))], "smaller than the resolution 8"),
        (fetching(__len__=lambda self: 0), "Changed has no images"),
        (fetching(fingerprint=lambda self: "x"), "the fingerprint of Changed is a text"),
        (fetching(fingerprint=None), "the fingerprint of Changed is a text"),
        ("builtin:digits", "str is not a data set: .* Set the recipe's `data` for a name"),
        ({"image": PIXELS, "label": LABELS}, "dict is not a data set"),
        ((PIXELS, 3), "has 3 labels for 12 images"),
        ((PIXELS, np.eye(12)), r"is one whole number, not"),
        ((PIXELS, [10**12] * 12), "has the label 1000000000000: labels are the numbers of classes"),
        ([torch.tensor(1.0)] * 2, r"no 1 or 3 channels"),
        (fetching(fetch=lambda self, i: 1 / 0), "`fetch` of Changed fails: ZeroDivisionError"),
        (fetching(fetch=lambda self, i: (PIXELS[i], None)), "returns ndarray and NoneType"),
        (fetching(fetch=lambda self, i: (PIXELS[i], ["a"] * len(i))), "returns ndarray and list"),
        (type("Broken", (Items,), {"__getitem__": lambda self, i: {}["gone"]})(),
         r"Broken\[0\] can't be read \(KeyError"),
        (fetching(fingerprint=""), "the fingerprint of Changed is a text"),
        (fetching(fetch=lambda self, i: torch.zeros(1)), "it has to return a pair"),
        (fetching(fetch=lambda self, i: (torch.zeros(1, 1, 8, 8), torch.zeros(1))),
         "type torch.float32: .* torch.uint8 are wanted"),
        (fetching(fetch=lambda self, i: (PIXELS[i][:, :, :4], torch.zeros(1))), "are wanted"),
        (fetching(fetch=lambda self, i: (PIXELS[i], torch.full((len(i),), 9))), r"outside 0..2"),
        (fetching(fetch=lambda self, i: (PIXELS[i], torch.zeros(1))), "whole numbers are wanted"),
        (type("Bare", (), {"fetch": None, "__len__": len})(), "Bare lacks `fingerprint`"),
        (own_data(PIXELS, 8, 1), "8 px with 1 channels, and 16 px with 3 are wanted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_no_data_is_said_in_one_line(value, message):
    size = (16, 3) if "16 px" in message else (8, 1)
    with pytest.raises(OvertoneError, match=message) as refused:
        own_data(value, *size)
    assert len(str(refused.value).splitlines()) == 1


def tiny(**changes):
    recipe = find_recipe("diffit-digits")
    return dataclasses.replace(
        recipe,
        data="",
        network=dataclasses.replace(TINY_DIFFIT, num_classes=0),
        training=Training(total_images=64, batch_size=16, lr_rampup_images=0, precision="fp32"),
        reporting=Reporting(report_images=64, checkpoint_images=64, held_out_images=8),
        **changes,
    )


@pytest.mark.slow
@pytest.mark.parametrize("value", [Fetching(), with_labels(PIXELS), Items()], ids=["f", "a", "i"])
def test_training_on_them(tmp_path, value):
    pipe = train(tiny(), tmp_path / "run", data=value, held_out=value, show=False)
    names = ("a", "b", "c")
    assert (pipe.num_classes, pipe.class_names) == (3, names)
    assert pipe.data == f"python:{type(value).__name__}"
    # The same data goes on with the run; other data do not.
    train(tiny(), tmp_path / "run", data=value, held_out=value, show=False)
    with pytest.raises(OvertoneError, match=r"other images|other settings|images"):
        train(tiny(), tmp_path / "run", data=(PIXELS[::-1].copy(), LABELS, names), show=False)


def test_data_given_as_objects_can_not_be_opened_by_name(tmp_path, capsys):
    train(tiny(), tmp_path / "run", data=Fetching(), show=False)
    run = str(tmp_path / "run")
    for command in (["evaluate", run], ["train", f"{run}/recipe.json", "--out", run]):
        with pytest.raises(SystemExit):
            main(command)
        assert "the data 'Fetching' were given to train(...) in Python" in capsys.readouterr().err


def test_what_does_not_fit_is_said_before_training(tmp_path):
    for given, message in (
        ({"data": PIXELS}, "the data 'ndarray' have no classes: give labels with the images"),
        ({"data": np.zeros((9, 1, 4, 4), np.uint8)}, "smaller than the resolution 8"),
        ({"held_out": PIXELS}, "held_out goes with data"),
        ({"data": with_labels(PIXELS), "held_out": (PIXELS, LABELS, ("x", "y", "z"))},
         "are not those of the training split"),
        ({}, "has no data of its own"),
    ):  # fmt: skip
        with pytest.raises(OvertoneError, match=message):
            train(tiny(), tmp_path / "run", show=False, **given)
    assert not (tmp_path / "run").exists()
    with pytest.raises(OvertoneError, match="trains on no images"):
        train("dsno-digits", tmp_path / "run", data=PIXELS)


class Fails(Fetching):
    """Data that break off after the first and the last image were tried."""

    def fetch(self, indices):
        if len(indices) > 2:
            raise OSError("the disk is gone")
        return super().fetch(indices)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fetch_that_fails_in_training_is_one_line(tmp_path, workers):
    recipe = tiny()
    reporting = dataclasses.replace(recipe.reporting, workers=workers)
    with pytest.raises(OvertoneError) as told:
        train(
            dataclasses.replace(recipe, reporting=reporting), tmp_path / "run", data=Fails(),
            show=False,
        )  # fmt: skip
    assert str(told.value) == "`fetch` of Fails fails: OSError: the disk is gone."


def test_floats_of_a_registered_name_mean_the_same_in_both_splits():
    train_split = PIXELS / np.float32(127.5) - 1
    bright = np.abs(train_split)

    @data_set("floats")
    def opener(resolution, channels, split):
        return (train_split if split == "train" else bright), LABELS

    try:
        assert int(held_out("floats", 8, 1).fetch(range(12))[0].min()) >= 127
    finally:
        OPENERS.pop("floats", None)


@pytest.fixture
def registered():
    calls = []

    @data_set("mine")
    def opener(resolution, channels, split):
        calls.append(split)
        return Fetching() if split == "train" else None

    yield calls
    OPENERS.pop("mine", None)


def test_a_registered_name_is_a_data_set_everywhere(registered, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OVERTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert len(open_data("mine", 8, 1)) == 12
    with pytest.raises(OvertoneError, match="mine has no test split"):
        open_data("mine", 8, 1, split="test")
    with pytest.raises(OvertoneError, match=r"are wanted"):
        open_data("mine", 16, 1)
    recipe = settings.dump(tiny()) | {"data": "mine"}
    (tmp_path / "tiny.json").write_text(json.dumps(recipe))
    main(["train", "tiny.json", "--out", "run"])
    assert load_pipeline(find_checkpoint(tmp_path / "run")).data == "mine"
    main(["data", "inspect", "mine", "--resolution", "8", "--channels", "1"])
    assert "12" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["data", "inspect", "mine"])
    assert "pass --resolution" in capsys.readouterr().err


def test_names_that_can_not_be_registered():
    for wrong in (lambda r, c, s: None, 3):
        with pytest.raises(OvertoneError, match="registered by a name"):
            data_set(wrong)
    for name in ("", "builtin:digits", "a/b", "fashion-mnist", "x.zip", " x"):
        with pytest.raises(OvertoneError, match="can't be called"):
            data_set(name)
    try:
        data_set("twice")(lambda *_: None)
        with pytest.raises(OvertoneError, match="two data sets are called 'twice'"):

            @data_set("twice")
            def other(resolution, channels, split):
                return None

        @data_set("failing")
        def failing(resolution, channels, split):
            raise KeyError("gone")

        with pytest.raises(OvertoneError, match=r"'failing' can't be opened: KeyError"):
            open_data("failing", 8, 1)
        with pytest.raises(OvertoneError, match="unknown data set 'failling': did you mean 'fail"):
            open_data("failling", 8, 1)
    finally:
        OPENERS.pop("twice", None)
        OPENERS.pop("failing", None)
