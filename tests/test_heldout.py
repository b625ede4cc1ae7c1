"""Images held out by their contents: which, how many, and what is told of them."""

import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from overtone.data.heldout import contents_of, hold_out
from overtone.data.images import ArrayData
from overtone.data.open import open_data
from overtone.data.own import own_data
from overtone.errors import OvertoneError
from overtone.runs import read_log
from overtone.training.loop import Trainer
from overtone.training.material import Given, images_of, material_of
from runs import TINY, changed


def pictures(count, size=12, seed=0, channels=1):
    shape = (count, size, size) if channels == 1 else (count, size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def folder_of(path, images, classes=1):
    for number, image in enumerate(images):
        place = path / f"class-{number % classes}" if classes > 1 else path
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:04d}.png")
    return path


def data_of(images, labels=None, classes=()):
    return ArrayData("given", np.asarray(images)[:, None], labels, classes)


def rows(data):
    """The images of a data set as a set of their bytes."""
    return [image.numpy().tobytes() for image in data.fetch(range(len(data)))[0]]


def test_the_two_parts_are_the_whole_and_share_no_image():
    data = data_of(pictures(200))
    train, test = hold_out(data, 0.1)
    assert (len(train), len(test)) == (180, 20)
    assert sorted(rows(train) + rows(test)) == sorted(rows(data))
    assert not set(rows(train)) & set(rows(test))
    assert len({data.fingerprint, train.fingerprint, test.fingerprint}) == 3


def test_five_percent_and_at_most_two_thousand():
    _, test = hold_out(data_of(pictures(400, size=3)))
    assert len(test) == 20
    _, test = hold_out(data_of(pictures(50_000, size=3)))
    assert len(test) == 2000


def test_the_choice_does_not_depend_on_the_order_or_on_what_else_is_there():
    images = pictures(300)
    _, test = hold_out(data_of(images), 0.1)
    turned = np.random.default_rng(1).permutation(300)
    _, again = hold_out(data_of(images[turned]), 0.1)
    assert set(rows(test)) == set(rows(again))
    # Of a few images more, most of what was held out still is: whoever adds to a folder does not
    # train on what was measured on before.
    _, more = hold_out(data_of(np.concatenate([images, pictures(30, seed=2)])), 0.1)
    kept = set(rows(test)) & set(rows(more))
    assert len(kept) >= 25


def test_the_choice_looks_random():
    """Each image is held out as likely as another, whatever its place or its brightness: under
    chance the mean place of 400 of 2,000 is within 4.5 standard errors but once in 150,000 times,
    and their mean brightness, too."""
    images = (pictures(2000, size=4).astype(int) * np.linspace(0, 1, 2000)[:, None, None]).astype(
        np.uint8
    )
    _, test = hold_out(data_of(images), 0.2)
    places, bright = test.indices / 2000, images.mean(axis=(1, 2))
    error = np.sqrt(1 / 12 / 400 * (1 - 0.2))
    assert abs(places.mean() - 0.5) < 4.5 * error
    error = bright.std() / np.sqrt(400) * np.sqrt(1 - 0.2)
    assert abs(bright[test.indices].mean() - bright.mean()) < 4.5 * error


def test_copies_stay_together():
    images = np.repeat(pictures(40), 3, axis=0)
    train, test = hold_out(data_of(images), 0.1)
    assert len(test) == 12
    assert not set(rows(train)) & set(rows(test))


def test_no_class_loses_its_last_image():
    labels = np.array([0] * 96 + [1, 2, 3, 4])
    train, test = hold_out(data_of(pictures(100), labels, tuple("abcde")), 0.9)
    assert len(test) == 90
    assert min(train.class_counts()) == 1
    assert np.bincount(train.classes(range(len(train)))).tolist() == list(train.class_counts())


def test_folders_zips_arrays_and_resolutions_hold_out_the_same(tmp_path):
    """The picture decides, not the file that it is in, nor what is made of it."""
    images = pictures(60, channels=3)
    folder = folder_of(tmp_path / "folder", images)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    np.savez(tmp_path / "images.npz", arr_0=images)
    parquet = [
        open_data(str(place), size, channels)
        for place in (folder, tmp_path / "images.zip", tmp_path / "images.npz")
        for size in (8, 12)
        for channels in (1, 3)
    ]
    chosen = {tuple(hold_out(data, 0.2)[1].indices.tolist()) for data in parquet}
    chosen.add(tuple(hold_out(own_data(images, 8, 1), 0.2)[1].indices.tolist()))
    assert len(chosen) == 1
    assert len(chosen.pop()) == 12


def test_palettes_tell_pictures_apart(tmp_path):
    """Of two pictures with the same numbers and other colours one may be held out."""
    from overtone.data.converting import digest_of_picture

    image = Image.fromarray(pictures(1)[0] % 4)
    found = set()
    for colours in ([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255], [9] * 12):
        own = image.copy()
        own.putpalette(colours)
        found.add(digest_of_picture(own))
    assert len(found) == 2


def test_what_can_not_be_held_out_says_what_can():
    few = data_of(pictures(40))
    assert hold_out(few, 0) == (few, None)
    assert hold_out(data_of(pictures(5)))[1] is None  # a twentieth of five is none
    with pytest.raises(
        OvertoneError, match=r"of the 40 images of given is less than one image: 0.025 holds out"
    ):
        hold_out(few, 0.001)
    with pytest.raises(OvertoneError, match="leaves nothing to train on"):
        hold_out(few, 1.0)
    same = data_of(np.zeros((40, 4, 4), np.uint8))
    with pytest.raises(OvertoneError, match=r"has more than 2 copies. Pass --held-out-share 0"):
        hold_out(same, 0.06)
    assert hold_out(same) == (same, None)
    own = data_of(pictures(40), np.arange(40), tuple(map(str, range(40))))
    with pytest.raises(OvertoneError, match="each is the only one of its class"):
        hold_out(own, 0.1)
    assert hold_out(own) == (own, None)


def test_a_run_measures_on_what_it_does_not_train_on(tmp_path, capsys):
    folder = folder_of(tmp_path / "images", pictures(60), classes=3)
    recipe = changed(data=str(folder), total_images=64, checkpoint_images=64)
    trainer = Trainer.of(recipe)
    assert (len(trainer.task.data), len(trainer.task.held_out)) == (57, 3)
    assert "3 of these images are held out, and the loss is measured on them" in (
        capsys.readouterr().err
    )
    trainer.run(tmp_path / "run")
    assert "held_out_loss" in read_log(tmp_path / "run")[0]
    # All of them, if that is asked for; and the run of one is not that of the other.
    whole = replace(recipe, held_out_share=0.0)
    assert Trainer.of(whole, show=False).task.held_out is None
    with pytest.raises(OvertoneError, match=r"images: .*-without-3-"):
        Trainer.of(whole, show=False).run(tmp_path / "run")


def test_data_with_a_test_split_are_left_alone():
    train, test = images_of("builtin:digits", 8, 1, show=False)
    whole, split = (open_data("builtin:digits", 8, 1, split=name) for name in ("train", "test"))
    assert (len(train), len(test)) == (len(whole), len(split))
    assert (train.fingerprint, test.fingerprint) == (whole.fingerprint, split.fingerprint)


def test_data_given_in_python_are_held_out_too():
    given = Given((pictures(100, size=8), np.arange(100) % 3, ("a", "b", "c")))
    data, test, _ = material_of(replace(TINY, data=""), given, show=False)
    assert (len(data), len(test)) == (95, 5)
    given = Given(given.data, (pictures(7, size=8), np.arange(7) % 3, ("a", "b", "c")))
    data, test, _ = material_of(replace(TINY, data=""), given, show=False)
    assert (len(data), len(test)) == (100, 7)


def test_digests_of_large_data_are_computed_once(tmp_path, monkeypatch):
    monkeypatch.setattr("overtone.data.heldout.KEPT_FROM", 10)
    monkeypatch.setenv("OVERTONE_CACHE", str(tmp_path))
    data = data_of(pictures(20))
    found = contents_of(data)
    assert len(set(found.tolist())) == 20
    monkeypatch.setattr(ArrayData, "fetch", lambda *_: pytest.fail("read again"))
    assert (contents_of(data_of(pictures(20))) == found).all()


def test_a_part_loads_in_other_processes():
    import pickle

    train, _ = hold_out(data_of(pictures(50)), 0.1)
    again = pickle.loads(pickle.dumps(train))
    assert torch.equal(again.fetch([3])[0], train.fetch([3])[0])
