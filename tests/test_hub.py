"""Data sets in the Hub's formats: parquet, arrow, save_to_disk, streamed; no network is needed."""

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image

from overtone.cli.app import main
from overtone.cli.model import is_images
from overtone.data import held_out, open_data, public_name
from overtone.data.hub import HubName, _inside
from overtone.data.names import absolute
from overtone.errors import OvertoneError
from overtone.training.material import images_of

FEATURES = Features(
    {"id": Value("int32"), "img": datasets.Image(), "kind": ClassLabel(names="xyz")}
)


def rows(count=5, first=0):
    pictures = [Image.new("RGB", (8 + i, 8), (first + i, 0, 0)) for i in range(count)]
    columns = {"id": list(range(count)), "img": pictures, "kind": [i % 3 for i in range(count)]}
    return Dataset.from_dict(columns, features=FEATURES)


def check(data, count=5):
    pixels, labels = data.fetch(range(count))
    assert (len(data), data.class_names) == (count, ("x", "y", "z"))
    assert pixels[:, 0, 0, 0].tolist() == list(range(count))
    assert labels.tolist() == [i % 3 for i in range(count)]


def test_parquet_files(tmp_path):
    rows().to_parquet(tmp_path / "a.parquet")
    name = f"hf:{tmp_path / 'a.parquet'}"
    check(open_data(name, 8, 3))
    assert held_out(name, 8, 3) is None
    check(open_data(f"{name}?limit=2", 8, 3), 2)
    rows(first=100).to_parquet(tmp_path / "a.parquet")  # another file of the same name
    assert open_data(name, 8, 3).fetch([0])[0][0, 0, 0, 0] == 100


def test_streamed_parquet_is_the_same(tmp_path):
    rows().to_parquet(tmp_path / "a.parquet")
    whole = open_data(f"hf:{tmp_path / 'a.parquet'}", 8, 3)
    streamed = open_data(f"hf:{tmp_path / 'a.parquet'}?streaming=true", 8, 3)
    check(streamed)
    assert streamed.fingerprint == whole.fingerprint


def test_folders_of_parquet_have_splits(tmp_path):
    (tmp_path / "data").mkdir()
    rows().to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    rows(3).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    check(open_data(f"hf:{tmp_path}", 8, 3))
    check(held_out(f"hf:{tmp_path}", 8, 3), 3)


def test_folders_that_save_to_disk_wrote(tmp_path):
    DatasetDict({"train": rows(), "validation": rows(2)}).save_to_disk(tmp_path / "both")
    check(open_data(f"hf:{tmp_path / 'both'}", 8, 3))
    check(held_out(f"hf:{tmp_path / 'both'}", 8, 3), 2)
    rows().save_to_disk(tmp_path / "one")
    check(open_data(f"hf:{tmp_path / 'one'}", 8, 3))
    assert held_out(f"hf:{tmp_path / 'one'}", 8, 3) is None
    arrow = next((tmp_path / "one").glob("*.arrow"))
    check(open_data(f"hf:{arrow}", 8, 3))


def test_columns_are_found_or_named(tmp_path):
    pair = rows().add_column("other", [0] * 5).cast_column("other", ClassLabel(names="ab"))
    pair.to_parquet(tmp_path / "a.parquet")
    name = f"hf:{tmp_path / 'a.parquet'}"
    check(open_data(name, 8, 3))
    assert open_data(f"{name}?label=other", 8, 3).class_names == ("a", "b")
    assert open_data(f"{name}?label=none", 8, 3).num_classes == 0
    with pytest.raises(OvertoneError, match=r"column of labels .*did you mean 'other'"):
        open_data(f"{name}?label=othr", 8, 3)


def test_every_pixel_kind_and_bad_row_is_seen_here_too(tmp_path):
    columns = {"img": [{"bytes": b"no picture", "path": None}], "kind": [0], "id": [0]}
    Dataset.from_dict(columns, features=FEATURES).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(OvertoneError, match=r"a\.parquet row 0 can't be read"):
        open_data(f"hf:{tmp_path / 'a.parquet'}", 8, 3)


def test_pictures_in_files_are_of_the_known_formats_whatever_their_name(tmp_path, monkeypatch):
    """Pillow hands EPS to another program."""

    def spy(*_, **__):
        raise AssertionError("Ghostscript was asked")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", spy)
    (tmp_path / "set").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "set" / "a.png", format="EPS")
    with pytest.raises(OvertoneError, match=r"row 0 can't be read \(not BMP, GIF"):
        open_data(f"hf:{tmp_path / 'set'}", 8, 3)


def test_paths_in_a_file_are_not_followed_out_of_its_folder(tmp_path):
    """A parquet file may name any file of the machine for its picture."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    home = tmp_path / "set"
    home.mkdir()
    columns = {"img": [{"bytes": None, "path": str(secret)}], "kind": [0], "id": [0]}
    Dataset.from_dict(columns, features=FEATURES).to_parquet(home / "train.parquet")
    with pytest.raises(OvertoneError, match="outside the data set"):
        open_data(f"hf:{home}", 8, 3)
    for path in (f"file://{secret}", "file://../../../etc/passwd", "ftp://host/a.png",
                 f"zip://a.png::{secret}", "zip://a.png::file:///tmp/a.zip"):  # fmt: skip
        assert not _inside(path, str(home))
    assert _inside(str(home / "a.png"), str(home))
    assert _inside("zip://a.png::hf://datasets/me/cats/a.zip", str(home))


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path):
    columns = {"img": [Image.new("RGB", (8, 8))], "kind": [-1], "id": [0]}
    nameless = Dataset.from_dict(columns, features=FEATURES)
    both = {"train": rows(), "validation": rows(2), "test": nameless}
    DatasetDict(both).save_to_disk(tmp_path / "all")
    check(held_out(f"hf:{tmp_path / 'all'}", 8, 3), 2)
    del both["validation"]
    DatasetDict(both).save_to_disk(tmp_path / "two")
    assert held_out(f"hf:{tmp_path / 'two'}", 8, 3) is None


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "cats").mkdir()
    rows().to_parquet(tmp_path / "cats" / "train.parquet")
    check(open_data("hf:~/cats", 8, 3))


def test_unlabelled_splits_are_refused_with_the_way_out(tmp_path):
    columns = {"img": [Image.new("RGB", (8, 8))], "kind": [-1], "id": [0]}
    Dataset.from_dict(columns, features=FEATURES).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(OvertoneError, match=r"no classes .*\?label=none"):
        open_data(f"hf:{tmp_path / 'a.parquet'}", 8, 3)


def test_names_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(OvertoneError, match="hf:nobody/nothing can't be opened"):
        open_data("hf:nobody/nothing", 8, 3)
    with pytest.raises(OvertoneError, match="did you mean 'streaming'"):
        HubName.parse("hf:a/b?steaming=true")
    with pytest.raises(OvertoneError, match="limit is a number"):
        HubName.parse("hf:a/b?limit=-3")
    with pytest.raises(OvertoneError, match="names no data set"):
        HubName.parse("hf:")
    Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(OvertoneError, match="no column of images, only text"):
        open_data(f"hf:{tmp_path / 'a.parquet'}", 8, 3)
    rows().save_to_disk(tmp_path / "one")
    with pytest.raises(OvertoneError, match=r"split of .*known: train"):
        open_data(f"hf:{tmp_path / 'one'}?test_split=zzz", 8, 3, split="test")


def test_fashion_mnist_comes_from_the_hub_where_no_copy_is(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    features = Features({"image": datasets.Image(), "label": ClassLabel(num_classes=10)})
    columns = {"image": [Image.fromarray(i) for i in images], "label": [9, 0, 3, 3]}
    (tmp_path / "hub").mkdir()
    for split in ("train", "test"):
        Dataset.from_dict(columns, features=features).to_parquet(
            tmp_path / "hub" / f"{split}.parquet"
        )
    monkeypatch.setenv("OVERTONE_DATA", str(tmp_path))
    monkeypatch.setattr("overtone.data.builtin.DEBIAN_FASHION", tmp_path / "none")
    monkeypatch.setattr("overtone.data.builtin.FASHION_HUB", f"hf:{tmp_path / 'hub'}")
    data = open_data("fashion-mnist", 32, 1)
    pixels, labels = data.fetch(range(4))
    assert np.array_equal(pixels[:, 0, 2:30, 2:30].numpy(), images)
    assert labels.tolist() == [9, 0, 3, 3]
    assert data.class_names[9] == "ankle boot"
    assert len(held_out("fashion-mnist", 28, 1)) == 4


def test_a_tables_file_needs_no_hf_before_it(tmp_path, monkeypatch, capsys):
    rows().to_parquet(tmp_path / "a.parquet")
    rows().save_to_disk(tmp_path / "saved")
    (tmp_path / "b.arrow").write_bytes(next((tmp_path / "saved").glob("*.arrow")).read_bytes())
    monkeypatch.chdir(tmp_path)
    for plain in ("a.parquet", "./a.parquet?label=none", str(tmp_path / "b.arrow")):
        own, other = open_data(plain, 8, 3), open_data(f"hf:{plain}", 8, 3)
        assert own.fetch(range(len(own)))[0].equal(other.fetch(range(len(own)))[0])
        assert own.fingerprint == other.fingerprint
        assert public_name(plain) == public_name(f"hf:{plain}")
        assert absolute(plain) == absolute(f"hf:{plain}")
        assert is_images(plain)
        assert held_out(plain, 8, 3) is None
    data, test = images_of("a.parquet", 8, 3)
    assert (len(data), test) == (len(own), None)
    main(["data", "inspect", "a.parquet"])
    assert f"{len(own)} images" in capsys.readouterr().out
    with pytest.raises(OvertoneError, match=r"hf:a\.parquet\?labl=none 'labl': did you mean"):
        open_data("a.parquet?labl=none", 8, 3)
