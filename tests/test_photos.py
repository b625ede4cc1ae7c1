"""Crops of the photographs that come with scikit-learn and scikit-image."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from overtone.data import held_out, open_data
from overtone.data import photos as module
from overtone.data.photos import PHOTOGRAPHS, Photos
from overtone.errors import OvertoneError


@pytest.fixture
def without_scikit_image(monkeypatch):
    found = module.find_spec
    monkeypatch.setattr(
        module, "find_spec", lambda name: None if name == "skimage" else found(name)
    )


def test_all_photographs_of_the_wheels_are_there():
    photos = open_data("builtin:photos", 64, 3)
    assert photos.class_names == tuple(photograph.name for photograph in PHOTOGRAPHS)
    assert photos.num_classes == 14
    assert not photos.notes
    images, labels = photos.fetch(range(28))
    assert images.shape == (28, 3, 64, 64)
    assert labels.tolist() == [*range(14), *range(14)]
    assert photos.classes([15, 3]).tolist() == [1, 3]
    assert images.float().std(dim=(1, 2, 3)).min() > 1  # none of one colour


def test_an_image_is_a_function_of_its_number():
    photos = Photos(32, 1)
    images, _ = photos.fetch([5, 900, 5])
    alone, _ = Photos(32, 1).fetch([900])
    assert torch.equal(images[1:2], alone)
    assert torch.equal(images[0], images[2])
    assert not torch.equal(photos.fetch([5])[0], Photos(32, 1, "test").fetch([5])[0])
    assert Photos(32, 1).fingerprint != Photos(32, 1, "test").fingerprint


def test_no_crop_for_training_reaches_into_the_test_split():
    """The two splits' columns put side by side are the photograph."""
    train, test = Photos(64, 3), held_out("builtin:photos", 64, 3)
    for photograph, left, right in zip(PHOTOGRAPHS, train.regions, test.regions, strict=True):
        with Image.open(photograph.path) as image:
            whole = np.asarray(image.convert("RGB"))
        assert np.array_equal(np.concatenate((left, right), axis=1), whole)
        assert right.shape[1] == whole.shape[1] // 4
    assert len(test) == 1400


def test_crops_are_of_the_photograph_at_any_scale():
    """Of a picture whose colours are its coordinates, a crop's colours say where it lies, and its
    slope how large it is: one to three times its own sides."""
    rows, columns = np.mgrid[:400, :600]
    picture = np.stack((rows / 2, columns / 3, 0 * rows), -1).astype(np.uint8)
    photos = Photos(32, 3)
    photos.regions = [picture] * photos.num_classes
    images = photos.fetch(range(200))[0].float()
    slopes = (images[:, 0, 28] - images[:, 0, 4]).mean(dim=1) * 2 / 24
    assert 1 - 0.05 < slopes.min() < 1.1
    assert 2.8 < slopes.max() < 3.05
    across = (images[:, 1, :, 28] - images[:, 1, :, 4]).mean(dim=1) * 3 / 24
    torch.testing.assert_close(slopes, across, rtol=0.1, atol=0.1)
    assert images[:, 0].min() < 10
    assert images[:, 1].max() > 190


def test_rectangles_and_grey():
    images, _ = Photos((24, 40), 1).fetch(range(4))
    assert images.shape == (4, 1, 24, 40)


@pytest.mark.usefixtures("without_scikit_image")
def test_without_scikit_image_two_are_left_and_it_is_said():
    photos = open_data("builtin:photos", 64, 3)
    assert photos.class_names == ("temple", "flower")
    assert any("pip install scikit-image brings 12 more" in line for line in photos.told())


def test_without_any_photograph(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(OvertoneError, match="pip install scikit-image"):
        open_data("builtin:photos", 64, 3)


@pytest.mark.parametrize(
    ("resolution", "channels", "message"),
    [
        (512, 3, "at most 300 px high and 96 px wide, not of 512 px"),
        (97, 3, "choose a smaller --resolution"),  # its training part is large enough
        ((64, 400), 1, "at most 300 px high and 96 px wide"),
        (64, 2, "1 or 3"),
    ],
)
def test_what_there_is_not(resolution, channels, message):
    with pytest.raises(OvertoneError, match=message):
        open_data("builtin:photos", resolution, channels)


def test_files_are_read_from_the_package_without_importing_it():
    code = (
        "import sys; from overtone.data import open_data;"
        " open_data('builtin:photos', 32, 3).fetch([2]); print('skimage' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
