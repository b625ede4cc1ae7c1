"""A cache gives what was asked for: changed data are read anew, the same data are read once."""

import dataclasses
import json
import os
import shutil
import tarfile
from io import BytesIO

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from helpers import TINY_TRANSFORMER, tiny_vae
from overtone.cli.app import main
from overtone.data import held_out, open_data
from overtone.data.latents import LatentData
from overtone.errors import OvertoneError
from overtone.training.material import encoded, images_of
from test_latents import LATENT
from trees import write_folder, write_zip


def bmp(shade, size=16):
    """A picture whose file is as long whatever is in it."""
    content = BytesIO()
    Image.new("L", (size, size), shade).save(content, "bmp")
    return content.getvalue()


def folder(path, shades):
    return write_folder(path, {f"{'ab'[n % 2]}/{n}.bmp": bmp(s) for n, s in enumerate(shades)})


def archive(path, shades):
    return write_zip(path, {f"{'ab'[n % 2]}/{n}.bmp": bmp(s) for n, s in enumerate(shades)})


def parquet(path, shades):
    columns = {
        "image": [bmp(shade) for shade in shades],
        "kind": [n % 2 for n in range(len(shades))],
    }
    pyarrow.parquet.write_table(
        pyarrow.table(columns), path, compression="none", use_dictionary=False
    )
    return path


def tables(path, shades):
    path.mkdir()
    parquet(path / "train.parquet", shades)
    return path


def saved(path, shades):
    columns = {
        "image": [bmp(shade) for shade in shades],
        "kind": [n % 2 for n in range(len(shades))],
    }
    datasets.Dataset.from_dict(columns).save_to_disk(path)
    return path


def tar(path, shades):
    with tarfile.open(path, "w") as file:
        for number, shade in enumerate(shades):
            for suffix, content in (("bmp", bmp(shade)), ("cls", b"%d" % (number % 2))):
                entry = tarfile.TarInfo(f"{number}.{suffix}")
                entry.size = len(content)
                file.addfile(entry, BytesIO(content))
    return path


# How data are written, and what stands before and after their path in their name.
KINDS = {
    "folder": (folder, "", ""),
    "a.zip": (archive, "", ""),
    "a.parquet": (parquet, "hf:", "?label=kind"),
    "tables": (tables, "hf:", "?label=kind"),
    "saved": (saved, "hf:", "?label=kind"),
    "a.tar": (tar, "hf:", "?label=cls"),
}


def files_in(path):
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def replaced(path, other):
    """Other data put in the place of these, with their times."""
    times = {p.relative_to(path): p.stat() for p in (path, *files_in(path))}
    path.rename(path.with_name("away"))
    other.rename(path)
    for name, own in times.items():
        os.utime(path / name, ns=(own.st_atime_ns, own.st_mtime_ns))


def edited(path, other):
    """The contents of the files changed, their times set back."""
    for own, new in zip(files_in(path), files_in(other), strict=True):
        times = own.stat()
        with own.open("r+b") as file:
            file.write(new.read_bytes())
        os.utime(own, ns=(times.st_atime_ns, times.st_mtime_ns))


def exchanged(path, other):
    """The files of the two with each other's names."""
    for own, new in zip(files_in(path), files_in(other), strict=True):
        times = own.stat()
        own.rename(own.with_name("between"))
        new.rename(own)
        own.with_name("between").rename(new)
        os.utime(own, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("change", [replaced, edited, exchanged])
@pytest.mark.parametrize("kind", KINDS)
def test_changed_data_are_read_anew(tmp_path, kind, change):
    write, before, after = KINDS[kind]
    path, other = write(tmp_path / kind, [10, 20]), write(tmp_path / f"other-{kind}", [70, 80])
    name = f"{before}{path}{after}"
    first = open_data(name, 16, 1)
    sizes = [file.stat().st_size for file in files_in(path)]
    change(path, other)
    if kind != "saved":  # whose arrow files have names of their own in them
        assert [file.stat().st_size for file in files_in(path)] == sizes
    second = open_data(name, 16, 1)
    for data, shades in ((first, [10, 20]), (second, [70, 80])):
        pixels, labels = data.fetch([0, 1])
        assert (pixels[:, 0, 0, 0].tolist(), labels.tolist()) == (shades, [0, 1])
    assert first.fingerprint != second.fingerprint


SPELLINGS = {
    "absolute": lambda path: str(path),
    "relative": lambda path: path.name,
    "with dots": lambda path: f"./x/../{path.name}",
    "doubled": lambda path: f"{path.parent}//{path.name}",
    "through ~": lambda path: f"~/{path.name}",
    "through a link": lambda path: f"{path.parent}/link",
    "through a link above": lambda path: f"{path.parent}/x/up/{path.name}",
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_data_under_another_spelling_are_read_once(tmp_path, monkeypatch, kind):
    write, before, after = KINDS[kind]
    path = write(tmp_path / kind, [10, 20])
    (tmp_path / "x").mkdir()
    link = tmp_path / ("link" + path.suffix)
    link.symlink_to(path)
    (tmp_path / "x/up").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    first = open_data(f"{before}{path}{after}", 16, 1)
    monkeypatch.setattr("overtone.data.reading.read_item", lambda *_: pytest.fail("read again"))
    words = [spell(path) for spell in SPELLINGS.values()]
    words = [w + path.suffix if w.endswith("/link") else w for w in words]
    words += [f"{path}/"] if path.is_dir() else []
    for word in words:
        data = open_data(f"{before}{word}{after}", 16, 1)
        assert torch.equal(data.fetch([0, 1])[0], first.fetch([0, 1])[0]), word
        assert data.fingerprint == first.fingerprint


def test_a_file_that_is_not_read_changes_nothing(tmp_path, monkeypatch):
    path = folder(tmp_path / "it", [10, 20])
    open_data(str(path), 16, 1)
    monkeypatch.setattr("overtone.data.reading.read_item", lambda *_: pytest.fail("read again"))
    (path / "a/notes.txt").write_text("seen")
    assert "passed over (1 .txt)" in open_data(str(path), 16, 1).notes[0]


def test_what_was_left_out_is_named_as_it_was_asked_for(tmp_path, monkeypatch):
    path = folder(tmp_path / "it", [10, 20])
    (path / "a/bad.png").write_bytes(b"none")
    monkeypatch.chdir(tmp_path)
    for name in (str(path), "it"):
        data = open_data(name, 16, 1, skip_bad=True)
        assert data.left_out[0].startswith(f"{name}/a/bad.png can't be read")


def test_other_labels_and_classes_of_the_same_files_are_others(tmp_path):
    path = folder(tmp_path / "it", [10, 20])
    assert open_data(str(path), 16, 1).fetch([0, 1])[1].tolist() == [0, 1]
    (path / "aa").mkdir()
    data = open_data(str(path), 16, 1)
    assert (data.class_names, data.fetch([0, 1])[1].tolist()) == (("a", "aa", "b"), [0, 2])
    for numbers in ([3, 1], [1, 3]):
        pairs = [["a/0.bmp", numbers[0]], ["b/1.bmp", numbers[1]]]
        (path / "dataset.json").write_text(json.dumps({"labels": pairs}))
        os.utime(path / "dataset.json", ns=(0, 0))
        assert open_data(str(path), 16, 1).fetch([0, 1])[1].tolist() == numbers


def test_another_size_or_number_of_channels_is_another(tmp_path):
    path = str(folder(tmp_path / "it", [10, 20]))
    shapes = [(16, 1), (8, 1), (16, 3), (16, 1)]
    for size, channels in shapes:
        assert open_data(path, size, channels).fetch([0])[0].shape == (1, channels, size, size)


def test_columns_limits_and_configs_are_told_apart(tmp_path):
    root = tmp_path / "set"
    for config, shade in (("one", 10), ("two", 90)):
        (root / config).mkdir(parents=True)
        parquet(root / config / "train.parquet", [shade, shade + 1])
    (root / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(
            f"- config_name: {name}\n  data_files: {name}/train.parquet\n"
            for name in ("one", "two")
        )
        + "---\nPictures.\n"
    )
    for config, shade in (("one", 10), ("two", 90), ("one", 10)):
        data = open_data(f"hf:{root}?config={config}", 16, 1)
        assert data.fetch([0, 1])[0][:, 0, 0, 0].tolist() == [shade, shade + 1]
        assert data.num_classes == 0
    data = open_data(f"hf:{root}?config=one&label=kind&limit=1", 16, 1)
    assert (len(data), data.num_classes) == (1, 1)


def labelled(path, names):
    features = datasets.Features(
        {"image": datasets.Image(), "kind": datasets.ClassLabel(names=names)}
    )
    columns = {"image": [{"bytes": bmp(n), "path": None} for n in (10, 20)], "kind": [0, 1]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    return path


def test_another_programs_copy_of_a_table_is_not_taken(tmp_path):
    """`datasets` keeps what it knows of a file under its path and time."""
    path = labelled(tmp_path / "a.parquet", "ab")
    datasets.load_dataset("parquet", data_files={"train": str(path)})
    edited(path, labelled(tmp_path / "b.parquet", "cd"))
    assert open_data(f"hf:{path}", 16, 1).class_names == ("c", "d")


# Latents.


@pytest.fixture
def vae(tmp_path):
    (tmp_path / "vae").mkdir()
    torch.manual_seed(0)
    tiny_vae().write_into(tmp_path / "vae")
    return tmp_path / "vae"


def rgb_folder(path, shades):
    for number, shade in enumerate(shades):
        (path / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (shade,) * 3).save(path / "ab"[number % 2] / f"{number}.bmp")
    return path


def encode(name, vae, out):
    main(["data", "encode", str(name), "--vae", str(vae), "--resolution", "16", "--out", str(out)])
    return LatentData(out)


@pytest.mark.parametrize("change", [replaced, edited, exchanged])
def test_changed_images_are_not_answered_with_old_latents(tmp_path, vae, change, capsys):
    path = rgb_folder(tmp_path / "it", [10, 200])
    first = encode(path, vae, tmp_path / "latents")
    change(path, rgb_folder(tmp_path / "other", [90, 30]))
    with pytest.raises(SystemExit):
        encode(path, vae, tmp_path / "latents")
    assert "latents holds other latents (image_fingerprint: " in capsys.readouterr().err
    second = encode(path, vae, tmp_path / "anew")
    assert not torch.equal(first.fetch([0])[0], second.fetch([0])[0])


def test_the_same_images_elsewhere_have_the_same_latents(tmp_path, vae):
    path = rgb_folder(tmp_path / "it", [10, 200])
    first = encode(path, vae, tmp_path / "latents")
    path.rename(tmp_path / "moved")
    second = encode(tmp_path / "moved", vae, tmp_path / "latents")
    assert second.fingerprint == first.fingerprint
    (tmp_path / "moved/b").rename(tmp_path / "moved/c")  # a class of another name
    with pytest.raises(SystemExit):
        encode(tmp_path / "moved", vae, tmp_path / "latents")


def test_held_out_latents_do_not_outlive_their_images(tmp_path, vae, capsys):
    path = tmp_path / "it"
    rgb_folder(path / "train", [10, 200]), rgb_folder(path / "test", [50, 60])
    encode(path, vae, tmp_path / "latents")
    assert (tmp_path / "latents/test/latents.json").exists()
    shutil.rmtree(path / "test")
    with pytest.raises(SystemExit):
        encode(path, vae, tmp_path / "latents")
    assert "latents/test holds latents of held-out images" in capsys.readouterr().err


def test_training_encodes_changed_images_anew(tmp_path, vae):
    path = rgb_folder(tmp_path / "it", [10, 200])
    network = dataclasses.replace(TINY_TRANSFORMER, num_classes=2)
    recipe = dataclasses.replace(LATENT, data=str(path), network=network, encoded_images=None)
    torch.manual_seed(0)
    own, found = tiny_vae(), []
    for _ in range(2):
        images, test = images_of(str(path), 16, 3, show=False)
        found.append(encoded(recipe, own, images, test, show=False)[0])
        edited(path, rgb_folder(tmp_path / f"other{len(found)}", [90, 30]))
    assert found[0].folder != found[1].folder
    assert not torch.equal(found[0].fetch([0])[0], found[1].fetch([0])[0])


def test_a_registered_name_is_no_path(tmp_path, monkeypatch):
    """Nor is the folder of a name that Overtone has."""
    folder(tmp_path / "builtin:digits", [10, 20])
    monkeypatch.chdir(tmp_path)
    assert len(open_data("builtin:digits", 8, 1)) == 1500
    with pytest.raises(OvertoneError, match="unknown data set ''"):
        open_data("", 8, 1)
    assert held_out("builtin:digits", 8, 1) is not None


def a_pipe(file):
    file.unlink()
    os.mkfifo(file)


def a_folder(file):
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("name", ["images.bin", "labels.bin", "index.json"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-3]),
        lambda file: file.write_bytes(file.read_bytes() + b"more"),
        a_pipe,
        a_folder,
    ],
    ids=["missing", "empty", "cut", "longer", "a pipe", "a folder"],
)
def test_damaged_images_of_the_cache_are_decoded_again(tmp_path, monkeypatch, name, damage):
    monkeypatch.setenv("OVERTONE_CACHE", str(tmp_path / "cache"))
    for number, place in enumerate(("data/cat/0.png", "data/dog/1.png")):
        (tmp_path / place).parent.mkdir(parents=True)
        Image.new("L", (8, 8), 90 * number).save(tmp_path / place)
    before = open_data(str(tmp_path / "data"), 8, 1)
    (file,) = (tmp_path / "cache").rglob(name)
    damage(file)
    after = open_data(str(tmp_path / "data"), 8, 1)
    assert after.fingerprint == before.fingerprint
    assert after.fetch([0, 1])[0].flatten(1)[:, 0].tolist() == [0, 90]
    assert after.labels.tolist() == [0, 1]
