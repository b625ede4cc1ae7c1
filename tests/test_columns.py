"""Columns of tables: images and classes of every type, splits of every name; no network."""

import io
import json
import tarfile

import datasets
import numpy as np
import pandas
import pyarrow
import pytest
from PIL import Image

from overtone.data import held_out, open_data
from overtone.data.inspect import inspect_data
from overtone.data.open import open_source, public_name
from overtone.errors import OvertoneError
from trees import parsed, png, write_folder

PICTURES = [png(40 * number) for number in range(4)]


def table(path, images=PICTURES, **columns):
    """A parquet file as pandas writes it, which says of no column what it is for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame({"image": images, **columns}).to_parquet(path)
    return f"hf:{path}"


LABELS = {
    "integers": ([0, 2, 0, 2], "0 1 2", [0, 2, 0, 2]),
    "small unsigned integers": (np.array([1, 0, 1, 0], np.uint8), "0 1", [1, 0, 1, 0]),
    "texts": (["b", "a", "b", "c"], "a b c", [1, 0, 1, 2]),
    "numbers as texts": (["10", "9", "9", "10"], "10 9", [0, 1, 1, 0]),
    "bytes": ([b"b", b"a", b"a", b"b"], "a b", [1, 0, 0, 1]),
    "bytes that are no text": ([b"\xff", b"a", b"a", b"\xff"], r"\xff a", [0, 1, 1, 0]),
    "booleans": ([True, False, False, True], "0 1", [1, 0, 0, 1]),
    "categories": (pandas.Categorical(["x", "y", "y", "x"]), "x y", [0, 1, 1, 0]),
    "emoji": (["🐈", "🐕", "🐕", "🐈"], "🐈 🐕", [0, 1, 1, 0]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_a_column_asked_for_is_taken_whatever_its_type(tmp_path, kind):
    cells, names, numbers = LABELS[kind]
    name = table(tmp_path / "a.parquet", kind=cells)
    data = open_data(f"{name}?label=kind", 8, 1)
    assert data.class_names == tuple(names.split())
    pixels, labels = data.fetch(range(4))
    assert (pixels[:, 0, 0, 0].tolist(), labels.tolist()) == ([0, 40, 80, 120], numbers)
    assert list(inspect_data(f"{name}?label=kind").classes) == names.split()
    assert open_data(name, 8, 1).num_classes == 0
    assert open_data(f"{name}?label=none", 8, 1).notes == []


NO_LABELS = {
    "floats": ([0.0, 1.0, 0.5, 1.0], "holds floats, and classes are integers or texts"),
    "lists": ([[0], [1], [0], [1]], "holds lists, and classes are integers or texts"),
    "dictionaries": ([{"a": 1}] * 4, "holds dicts, and classes are integers or texts"),
    "times": (pandas.to_datetime([0, 1, 2, 3]), "and classes are integers or texts"),
    "negative": ([0, 1, -1, 1], r"no classes in its train split \(label -1 in row 2\)"),
    "huge": ([0, 1, 2**40, 1], "goes up to 1099511627776, and 100,000 classes are the most"),
    "long texts": (["a", "b" * 2000, "c", "d"], "has a text of 2,000 letters, which is not a name"),
    "missing integers": (
        pandas.array([0, 1, None, 1], "Int64"),
        r"no classes in its train split \(label None in row 2\)",
    ),
    "missing texts": (
        ["a", None, "b", "a"],
        r"no classes in its train split \(label None in row 1\)",
    ),
}


@pytest.mark.parametrize("kind", NO_LABELS)
def test_columns_that_hold_no_classes_are_refused(tmp_path, kind):
    cells, message = NO_LABELS[kind]
    name = table(tmp_path / "a.parquet", kind=cells)
    with pytest.raises(OvertoneError, match=message) as caught:
        open_data(f"{name}?label=kind", 8, 1)
    assert "?label=none" in str(caught.value)


IMAGES = {
    "bytes": PICTURES,
    "pandas' structures": [{"bytes": content, "path": None} for content in PICTURES],
    "with a path": [{"bytes": content, "path": "a.png"} for content in PICTURES],
    "bytes alone": [{"bytes": content} for content in PICTURES],
    "with more beside": [{"bytes": content, "path": None, "size": 8} for content in PICTURES],
    "large binary": pandas.array(PICTURES, pandas.ArrowDtype(pyarrow.large_binary())),
}


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("option", ["", "?image=image"])
def test_images_are_decoded_however_they_are_packed(tmp_path, kind, option):
    name = table(tmp_path / "a.parquet", IMAGES[kind], noise=[b"a", b"b", b"c", b"d"])
    data = open_data(name + option, 8, 1)
    assert data.fetch(range(4))[0][:, 0, 0, 0].tolist() == [0, 40, 80, 120]


def test_a_first_row_without_an_image_hides_no_column(tmp_path):
    name = table(tmp_path / "a.parquet", [None, *PICTURES[1:]])
    with pytest.raises(OvertoneError, match=r"row 0 can't be read \(the row is empty\)"):
        open_data(name, 8, 1)
    assert len(open_data(name, 8, 1, skip_bad=True)) == 3
    name = table(tmp_path / "b.parquet", [b"none"] * 4)
    with pytest.raises(OvertoneError, match="has no column of images, only image"):
        open_data(name, 8, 1)


def test_other_columns_of_images_are_not_decoded(tmp_path, monkeypatch):
    """`datasets` would do it with all that Pillow knows, which hands EPS to another program."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "eps")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("asked"))
    columns = {"image": PICTURES, "mask": [content.getvalue()] * 4, "kind": ["a"] * 4}
    kinds = {"image": datasets.Image(), "mask": datasets.Image(), "kind": datasets.Value("string")}
    rows = [{"bytes": cell, "path": None} for cell in columns["mask"]]
    rows = datasets.Dataset.from_dict(columns | {"mask": rows}, features=datasets.Features(kinds))
    rows.to_parquet(tmp_path / "a.parquet"), rows.save_to_disk(tmp_path / "saved")
    for path in ("a.parquet", "saved"):
        name = f"hf:{tmp_path / path}"
        assert len(open_data(f"{name}?label=kind", 8, 1)) == 4
        for column in ("mask", "image"):
            with pytest.raises(OvertoneError, match=f"'{column}' holds Images, and classes are"):
                open_data(f"{name}?label={column}", 8, 1)
        with pytest.raises(OvertoneError, match=r"row 0 can't be read \(not BMP"):
            open_data(f"{name}?image=mask", 8, 1)


def test_other_columns_are_mentioned_with_the_option_that_takes_them(tmp_path):
    name = table(tmp_path / "a.parquet", id=[5, 6, 7, 8], label=[0, 1, 0, 1], x=[0.5] * 4)
    (note,) = open_source(name).notes
    assert note == "no classes are read: ?label=label takes another column (label, id)"
    assert open_source(f"{name}?label=label").notes == []
    own, number = datasets.ClassLabel(names="ab"), datasets.Value("int8")
    features = datasets.Features({"image": datasets.Image(), "own": own, "id": number})
    columns = {"image": [Image.new("L", (8, 8))], "own": [1], "id": [3]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "b.parquet")
    source = open_source(f"hf:{tmp_path / 'b.parquet'}")
    assert source.class_names == ("a", "b")
    assert source.notes == ["the classes are those of 'own': ?label=id takes another column (id)"]
    with pytest.raises(OvertoneError, match=r"column of labels.*did you mean 'own'"):
        open_source(f"hf:{tmp_path / 'b.parquet'}?label=owm")


def tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return f"hf:{path}"


def test_webdatasets_classes(tmp_path):
    members = {}
    for number, content in enumerate(PICTURES):
        members |= {f"{number:03d}.png": content, f"{number:03d}.cls": str(number % 2).encode()}
        members[f"{number:03d}.json"] = json.dumps({"a": number}).encode()
    name = tar(tmp_path / "a.tar", members)
    data = open_data(f"{name}?label=cls", 8, 1)
    assert (data.class_names, data.fetch(range(4))[1].tolist()) == (("0", "1"), [0, 1, 0, 1])
    (note,) = open_source(name).notes
    assert "?label=cls takes another column (cls, __key__, __url__)" in note
    assert open_data(f"{name}?label=cls&limit=1", 8, 1).class_names == ("0",)


def test_texts_are_numbered_alike_in_both_splits(tmp_path):
    table(tmp_path / "set/train.parquet", kind=["a", "c", "a", "c"])
    table(tmp_path / "set/test.parquet", kind=["c", "b", "b", "c"])
    name = f"hf:{tmp_path / 'set'}?label=kind"
    train, test = open_data(name, 8, 1), held_out(name, 8, 1)
    assert train.class_names == test.class_names == ("a", "b", "c")
    assert train.fetch(range(4))[1].tolist() == [0, 2, 0, 2]
    assert test.fetch(range(4))[1].tolist() == [2, 1, 1, 2]
    assert "1 of 3 classes have no images (b)" in " ".join(train.told())
    # Beside another split the names are others, and so are the numbers that were kept.
    table(tmp_path / "set/val.parquet", kind=["c", "c", "c", "c"])
    other = open_data(f"{name}&test_split=val", 8, 1)
    assert (other.class_names, other.fetch(range(4))[1].tolist()) == (("a", "c"), [0, 1, 0, 1])


SPLITS = {
    "files": ("train.parquet test.parquet", "test"),
    "files in capitals": ("Train.parquet TEST.parquet", "TEST"),
    "shards": ("data/train-00000-of-00001.parquet data/val-00000-of-00001.parquet", "val"),
    "folders": ("train/0.parquet eval/0.parquet", "eval"),
    "folders in capitals": ("Training/0.parquet Validation/0.parquet", "Validation"),
    "below a folder": ("x/Train/0.parquet x/Dev/0.parquet", "Dev"),
    "one": ("a.parquet", None),
    "training alone": ("TRAIN/a.parquet", None),
}


@pytest.mark.parametrize("layout", SPLITS)
def test_splits_of_tables_are_called_as_those_of_folders(tmp_path, layout):
    files, test = SPLITS[layout]
    for number, file in enumerate(files.split()):
        table(tmp_path / "set" / file, [PICTURES[number]])
    name = f"hf:{tmp_path / 'set'}"
    assert open_data(name, 8, 1).fetch([0])[0][0, 0, 0, 0] == 0
    kept = held_out(name, 8, 1)
    assert (kept is None) == (test is None)
    if kept is not None:
        assert kept.fetch([0])[0][0, 0, 0, 0] == 40
        assert len(open_data(f"{name}?split={test}", 8, 1)) == 1


def test_held_out_tables_alone_are_not_trained_on(tmp_path):
    table(tmp_path / "set/Test.parquet")
    name = f"hf:{tmp_path / 'set'}"
    with pytest.raises(OvertoneError, match=r"held-out splits alone \(Test\).*\?split=Test takes"):
        open_data(name, 8, 1)
    assert len(open_data(f"{name}?split=Test", 8, 1)) == 4
    assert len(held_out(name, 8, 1)) == 4


def test_splits_that_are_not_used_are_said(tmp_path):
    for split in ("train", "test", "val", "extra"):
        table(tmp_path / f"set/{split}.parquet")
    notes = open_source(f"hf:{tmp_path / 'set'}?label=none").notes
    assert notes == [
        "the split 'val' is not used beside 'test'",
        "the split 'extra' is not used: ?split=extra takes it",
    ]
    saved = {name: datasets.Dataset.from_dict({"image": PICTURES}) for name in ("Train", "VAL")}
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "saved")
    name = f"hf:{tmp_path / 'saved'}"
    assert (len(open_data(name, 8, 1)), len(held_out(name, 8, 1))) == (4, 4)


def test_files_beside_tables_and_images_are_counted(tmp_path):
    root = write_folder(tmp_path / "it", parsed("a.txt b.txt c.png x/d.pdf"))
    table(root / "train.parquet"), table(root / "val.parquet")
    assert open_source(f"hf:{root}?label=none").notes == [
        "4 files are not tables and are passed over (2 .txt, 1 .pdf, 1 .png)"
    ]
    flat = write_folder(tmp_path / "flat", parsed("a.png b.png c.txt"))
    assert open_source(f"hf:{flat}").notes == ["1 file is not an image and is passed over (1 .txt)"]


TREES = {
    "classes": "cat/0.png dog/1.png",
    "an empty class": "ant/0.png bee/ cat/1.png",
    "splits in capitals": "Train/cat/0.png Train/dog/1.png TEST/cat/2.png TEST/dog/3.png",
    "labels": "00000/a.png 00000/b.png dataset.json{00000/a.png:2,00000/b.png:0}",
    "labels beside images": "a.png b.png dataset.json{a.png:1,b.png:0}",
    "annotations": "train2017/0.png train2017/1.png val2017/2.png notes/train.json",
}


@pytest.mark.parametrize("tree", TREES)
def test_a_folder_of_images_is_the_same_after_hf(tmp_path, tree):
    write_folder(tmp_path / "it", parsed(TREES[tree]))
    path = str(tmp_path / "it")
    for split in ("train", "test") if "2.png" in TREES[tree] else ("train",):
        plain, hub = open_source(path, split), open_source(f"hf:{path}", split)
        read = [[(item.name, item.label) for item in source.items()] for source in (plain, hub)]
        assert read[0] == read[1]
        assert (plain.class_names, plain.notes) == (hub.class_names, hub.notes)
    none = open_data(f"hf:{path}?label=none&limit=1", 8, 1)
    assert (none.num_classes, len(none)) == (0, 1)
    with pytest.raises(OvertoneError, match="'config' is for tables, and this is a folder"):
        open_source(f"hf:{path}?config=a")
    with pytest.raises(OvertoneError, match=r"unknown column of labels.*known: none"):
        open_source(f"hf:{path}?label=kind")


def test_metadata_beside_images_are_columns(tmp_path):
    root = write_folder(tmp_path / "it", parsed("Train/0.png Train/1.png TEST/2.png"))
    for split, kinds in {"Train": {"0.png": "b", "1.png": "a"}, "TEST": {"2.png": "c"}}.items():
        rows = [json.dumps({"file_name": name, "kind": kind}) for name, kind in kinds.items()]
        (root / split / "metadata.jsonl").write_text("\n".join(rows))
    data = open_data(f"hf:{root}?label=kind", 8, 1)
    assert (data.class_names, data.fetch([0, 1])[1].tolist()) == (("a", "b", "c"), [1, 0])
    assert held_out(f"hf:{root}?label=kind", 8, 1).fetch([0])[1].tolist() == [2]


@pytest.mark.parametrize("name", ["a[1].parquet", "a*.parquet", "{a,b}.parquet", "a?b=c.parquet"])
def test_names_are_no_patterns(tmp_path, name):
    path = tmp_path / "[set]*" / name
    table(path, PICTURES[:1])
    table(path.with_name("a1.parquet"), PICTURES[1:2])
    data = open_data(f"hf:{path}", 8, 1)
    assert (len(data), int(data.fetch([0])[0].max())) == (1, 0)
    assert len(open_data(f"hf:{path}?limit=1", 8, 1)) == 1
    assert len(open_data(f"hf:{path.parent}", 8, 1)) == 2
    assert public_name(f"hf:{path}?limit=1") == name


BROKEN = {
    "cut short": lambda content: content[:-20],
    "nothing": lambda _: b"",
    "text": lambda _: b"hello",
    "changed within": lambda content: content[:200] + b"\xff" * 200 + content[400:],
}


@pytest.mark.parametrize("how", BROKEN)
def test_damaged_tables_are_one_line(tmp_path, how):
    name = table(tmp_path / "a.parquet", kind=["a", "b"] * 2)
    (tmp_path / "a.parquet").write_bytes(BROKEN[how]((tmp_path / "a.parquet").read_bytes()))
    with pytest.raises(OvertoneError, match=r"a\.parquet") as caught:
        open_data(f"{name}?label=kind", 8, 1)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_table_is_told_with_what_to_do(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(OvertoneError, match=r"neither \.parquet nor .*without hf:"):
        open_data(f"hf:{tmp_path / 'a.zip'}", 8, 1)
    with pytest.raises(OvertoneError, match=r"b\.parquet does not exist: name a file"):
        open_data(f"hf:{tmp_path / 'b.parquet'}", 8, 1)
    with pytest.raises(OvertoneError, match="limit is a number"):
        open_data(f"hf:{tmp_path / 'b.parquet'}?limit={'9' * 5000}", 8, 1)
