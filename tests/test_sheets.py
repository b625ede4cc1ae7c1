"""Grids of samples: which columns they have, the names above them, and where each image is."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers import TINY_DIFFIT, awake
from overtone.cli.app import main
from overtone.errors import OvertoneError
from overtone.networks.network import build
from overtone.pipelines import Pipeline
from overtone.pipelines.pictures import pixels_of
from overtone.pipelines.receipt_files import read_receipt
from overtone.pipelines.sheets import Layout, columns_for, layout_in, layout_text, sheet
from overtone.samplers import Sampler

NAMES = ("cat", "a dog of many words", "zebra")


def turns(classes, count):
    return [k % classes for k in range(count)]


@pytest.mark.parametrize(
    ("count", "classes", "columns"),
    [(64, 0, 8), (12, 0, 4), (60, 0, 10), (7, 0, 7), (60, 10, 10), (64, 10, 8), (64, 2, 8),
     (6, 3, 3), (104, 26, 26), (64, 100, 8), (96, 3, 12), (1, 0, 1), (2, 2, 2)],
)  # fmt: skip
def test_columns(count, classes, columns):
    assert columns_for(count, turns(classes, count) if classes else None) == columns


@given(st.integers(1, 1024), st.integers(0, 40))
def test_cells_stay_empty_only_where_nothing_divides(count, classes):
    columns = columns_for(count, turns(classes, count) if classes else None)
    assert 1 <= columns <= 32
    if 1 < classes <= 32 and count >= classes and count % classes == 0:
        assert columns % classes == 0
        assert count % columns == 0
    shapes = [c for c in range(1, 33) if count % c == 0 and 0.25 <= count / c**2 <= 4]
    if shapes or count <= 8:
        assert count % columns == 0


def test_classes_that_do_not_come_in_turns_have_no_columns_of_their_own():
    assert columns_for(12, [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2]) == 4


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 3), (32, 3), (64, 1)])
@pytest.mark.parametrize("labels", [turns(3, 12), [0, 0, 1, 2, 2, 1, 0, 1, 1, 1, 2, 0], None])
def test_every_image_is_where_the_layout_says(size, channels, labels):
    images = torch.randint(0, 256, (12, channels, size, size + 4), dtype=torch.uint8)
    picture, layout = sheet(images, labels, NAMES if labels else ())
    for place, image in enumerate(images):
        found = pixels_of([picture.crop(layout.box(place, size, size + 4))], channels)[0]
        assert torch.equal(found, image)
    again = layout_in(layout_text(layout), size + 4, picture.width)
    assert again == layout


def test_names_are_written_above_their_columns():
    images = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
    picture, layout = sheet(images, turns(3, 6), NAMES)
    assert layout.columns == 3
    assert layout.header > 20  # upwards, for the long one
    header = picture.crop((0, 0, picture.width, layout.header)).convert("L")
    for column in range(3):
        cell = header.crop((column * 33, 0, column * 33 + 32, layout.header))
        low, high = cell.getextrema()
        assert low == 64
        assert high > 150
    short, layout = sheet(images, turns(3, 6), ("a", "b", "c"))
    assert layout.header < 20
    # Names that mean the same picture are the same picture.
    same, _ = sheet(images, turns(3, 6), ("a", "a", "a"))
    tops = [same.crop((k * 33, 0, k * 33 + 32, layout.header)).tobytes() for k in range(3)]
    assert len(set(tops)) == 1
    assert short.tobytes() != same.tobytes()


def test_names_above_each_image_where_columns_are_mixed():
    images = torch.zeros(6, 1, 48, 48, dtype=torch.uint8)
    _, layout = sheet(images, [0, 0, 0, 1, 1, 2], NAMES)
    assert (layout.header, layout.band > 8) == (0, True)
    small = torch.zeros(6, 1, 8, 8, dtype=torch.uint8)
    _, layout = sheet(small, [0, 0, 0, 1, 1, 2], NAMES)
    assert layout == Layout(3)


def test_a_grid_of_before_has_no_layout_of_its_own():
    assert layout_in(None, 8, 3 * 9 - 1) == Layout(3)
    for text in ("{", '{"columns": 0}', '{"columns": 3, "more": 1}', '{"columns": 1e99}', "[]"):
        with pytest.raises(OvertoneError, match="the grid's layout"):
            layout_in(text, 8, 26)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    torch.manual_seed(0)
    pipe = Pipeline(awake(build(TINY_DIFFIT)), Sampler(num_steps=2), class_names=NAMES)
    pipe.save_pretrained(folder)
    return str(folder)


def test_samples_of_each_class(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["sample", model, "--per-class", "4", "--out", "grid.png"])
    receipt = read_receipt(tmp_path / "grid.png")
    assert receipt.seeds == "0-11"
    with Image.open("grid.png") as picture:
        assert json.loads(picture.text["overtone-grid"])["columns"] == 3
    main(["replay", "grid.png", "--seed", "7"])
    assert "seed 7: the very same image" in capsys.readouterr().out
    main(["sample", model, "--per-class", "2", "--classes", "zebra", "cat", "--out", "some"])
    assert {file.name for file in (tmp_path / "some").iterdir()} == {
        "000000-zebra.png", "000001-cat.png", "000002-zebra.png", "000003-cat.png",
    }  # fmt: skip
    own = read_receipt(tmp_path / "some" / "000002-zebra.png")
    assert own.seed == 2
    main(["replay", "some/000002-zebra.png"])
    assert "the very same image" in capsys.readouterr().out
    # Without a number there are as many as make a grid: 63 of three classes.
    main(["sample", model, "--out", "usual.png"])
    assert read_receipt(tmp_path / "usual.png").seeds == "0-62"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--per-class", "2", "--seeds", "0-3"], "--per-class says how many images there are"),
        (["--per-class", "0"], "--per-class must be at least 1"),
        (["--per-class", "400"], "a grid shows 1,024 images at most, and 1,200 are asked for"),
    ],
)
def test_what_can_not_be_asked_for(model, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(["sample", model, *arguments, "--out", str(tmp_path / "a.png")])
    assert message in capsys.readouterr().err


def test_classes_by_name_in_python(model):
    from overtone import load_pipeline

    pipe = load_pipeline(model)
    by_name = pipe(seeds=[1, 2], class_labels=["zebra", "cat"])
    by_number = pipe(seeds=[1, 2], class_labels=[2, 0])
    assert [a.tobytes() for a in by_name] == [b.tobytes() for b in by_number]
    assert pipe(seeds=[5], class_labels="zebra")[0].tobytes() == pipe([5], 2)[0].tobytes()
    with pytest.raises(OvertoneError, match="zebra"):
        pipe(seeds=[5], class_labels="zebr")
