"""Distances, precision and recall, and the report: closed forms, other libraries, bad input."""

import os

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

from overtone import storage
from overtone.cli.app import main
from overtone.data import ArrayData, held_out, open_data
from overtone.errors import OvertoneError
from overtone.metrics import (
    ClassifierExtractor,
    Evaluation,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from overtone.metrics.features import Extractor, Features
from overtone.metrics.frechet import distances
from overtone.metrics.parts import VECTORS
from overtone.metrics.sample import Sample
from overtone.metrics.vectors import FeatureFile
from overtone.networks import Classifier, ClassifierConfig
from overtone.training.classifier import classifier_of


def test_frechet_distance_is_heusels_formula(tmp_path):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(500, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    b = torch.randn(300, 6, generator=generator) * 0.5 + 1
    x, y = a.double().numpy(), b.double().numpy()
    c, d = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(c @ d).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c + d - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    with FeatureFile(tmp_path, 6) as real, FeatureFile(tmp_path, 6) as fake:
        for part in a.split(77):
            real.add(part)
        for part in b.split(50):
            fake.add(part)
        streamed = [Sample({VECTORS: file.vectors()}, 0) for file in (real, fake)]
    assert float(distances(*streamed)) == pytest.approx(frechet_distance(a, b), rel=1e-9)


@pytest.mark.parametrize("count", [5, 10, 40, 64, 500])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_the_distance_of_equal_sets_is_0(count, scale):
    """Also of fewer vectors than they have features, whatever rounding makes of it."""
    for number in range(5):
        generator = torch.Generator().manual_seed(number)
        vectors = scale * (1 + torch.randn(count, 64, generator=generator))
        order = torch.randperm(count, generator=generator)
        assert frechet_distance(vectors, vectors[order]) == 0.0
        assert frechet_distance(vectors, vectors + 0.01 * scale) > 0.0


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ("cats/cat", ["--data", "cats"], "has one class, and a classifier has nothing to tell"),
        ("few", ["--data", "builtin:digits", "--real-images", "7"], "7 real images are too"),
        ("few", ["--data", "builtin:digits"], "2 images are too few to evaluate: ask for 4"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused_before_a_classifier_is_trained(
    tmp_path, capsys, monkeypatch, images, options, message
):
    monkeypatch.chdir(tmp_path)
    for folder, count in (("cats/cat", 16), ("few", 2)):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (8, 8), 10 * number).save(tmp_path / folder / f"{number}.png")
    trained = lambda *_, **__: pytest.fail("trained")  # noqa: E731
    monkeypatch.setattr("overtone.training.loop.Trainer.run", trained)
    with pytest.raises(SystemExit):
        main(["evaluate", images, "--resolution", "8", "--channels", "1", *options])
    assert message in capsys.readouterr().err


def test_kernel_distance_is_the_unbiased_sum_written_out():
    generator = torch.Generator().manual_seed(5)
    real = torch.randn(7, 4, generator=generator).double()
    fake = torch.randn(7, 4, generator=generator).double() + 0.5

    def kernel(a, b):
        return (float(a @ b) / 4 + 1) ** 3

    apart = [(i, j) for i in range(7) for j in range(7) if i != j]
    own = sum(kernel(real[i], real[j]) + kernel(fake[i], fake[j]) for i, j in apart) / (7 * 6)
    across = sum(kernel(a, b) for a in real for b in fake) / 7**2
    assert kernel_distance(real, fake, subsets=3) == pytest.approx(own - 2 * across, rel=1e-9)


def test_frechet_distance_of_shifted_and_scaled_gaussians():
    # Closed form: |shift|^2 + dims (s_a - s_b)^2.
    x = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(1))
    assert frechet_distance(x, 3 * x + 2) == pytest.approx(8 + 2 * 4, rel=0.01)


def test_precision_and_recall_by_their_definition():
    generator = torch.Generator().manual_seed(4)
    real, fake = (
        torch.randn(40, 3, generator=generator),
        torch.randn(30, 3, generator=generator) + 1,
    )

    def share(points, manifold, k):
        count = 0
        for p in points:
            for m in manifold:
                radius = sorted((m - other).norm().item() for other in manifold)[k]
                if (p - m).norm().item() <= radius:
                    count += 1
                    break
        return count / len(points)

    for k in (1, 3):
        expected = share(fake, real, k), share(real, fake, k)
        assert precision_recall(real, fake, k) == pytest.approx(expected)


def test_precision_and_recall_tell_apart_what_is_missing():
    generator = torch.Generator().manual_seed(5)
    modes = torch.randn(400, 2, generator=generator) + torch.tensor([[10.0, 0], [-10.0, 0]]).repeat(
        200, 1
    )
    one_mode = modes[::2] + 0.1
    wide = torch.randn(400, 2, generator=generator) * 60
    precision, recall = precision_recall(modes, one_mode)
    assert precision > 0.9
    assert 0.4 < recall < 0.55
    assert precision_recall(modes, wide)[0] < 0.2


@pytest.fixture(scope="module")
def digits():
    return classifier_of("builtin:digits", 8, 1)


@pytest.mark.slow
def test_the_digits_classifier_reaches_97_percent(digits):
    real = open_data("builtin:digits", 8, 1)
    evaluation = Evaluation(digits, real, held_out("builtin:digits", 8, 1))
    assert evaluation.accuracy >= 0.97
    own = evaluation([real.fetch(range(0, 1500, 2))], {})
    assert own.class_accuracy > 0.97
    assert own.recall > 0.9
    noise = torch.randint(0, 256, (500, 1, 8, 8), dtype=torch.uint8)
    bad = evaluation([(noise, torch.arange(500) % 10)], {})
    assert bad.class_accuracy < 0.3
    # Recall is fooled by noise, whose manifold is wide; precision is not.
    assert bad.precision < 0.3
    assert bad.frechet_distance > 10 * own.frechet_distance


@pytest.mark.slow
def test_the_classifier_is_trained_once(digits, monkeypatch):
    monkeypatch.setattr("overtone.training.loop.Trainer.run", lambda *_: pytest.fail("again"))
    assert classifier_of("builtin:digits", 8, 1).digest == digits.digest


def test_evaluation_says_everything_that_is_needed_to_repeat_it():
    config = ClassifierConfig(resolution=8, channels=1, widths=(4, 8), num_features=6)
    extractor = ClassifierExtractor(Classifier(config), digest="d1")
    data = open_data("builtin:digits", 8, 1)
    evaluation = Evaluation(extractor, data, held_out("builtin:digits", 8, 1), limit=200)
    batches = [data.fetch(range(30)), (data.fetch(range(30, 60))[0], None)]
    report = evaluation(batches, {"seeds": "0-59"})
    assert report.made_with == {"seeds": "0-59"}
    assert (report.images, report.real_images, report.extractor_digest) == (60, 200, "d1")
    assert report.real == "builtin:digits"
    assert report.resize_rule == "none"
    assert set(report.as_json()) >= {"precision", "recall", "class_accuracy", "real_recall"}
    assert 0 <= report.class_accuracy <= 1
    with pytest.raises(OvertoneError, match="3 images are too few"):
        evaluation([data.fetch(range(3))], {})


class PixelExtractor(Extractor):
    """Features are the first three pixels; the class is the parity of the first."""

    name, digest, dims, knows_classes = "pixels", "p", 3, True

    def __call__(self, pixels):
        vectors = pixels.flatten(1)[:, :3].float()
        return Features(vectors, torch.nn.functional.one_hot(pixels[:, 0, 0, 0].long() % 2, 2))


def test_a_report_holds_the_scores_of_its_images():
    generator = torch.Generator().manual_seed(7)
    real = torch.randint(0, 256, (40, 1, 8, 8), generator=generator, dtype=torch.uint8)
    fake = torch.randint(60, 200, (40, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = np.arange(40) % 2
    extractor = PixelExtractor()
    data = ArrayData("noise", real.numpy(), labels, ("a", "b"))
    report = Evaluation(extractor, data, data)([(fake, torch.zeros(40).long())], {})
    a, b = (extractor(images).vectors for images in (real, fake))
    precision, recall = precision_recall(a, b)
    assert precision - recall > 0.1  # else they could stand for each other
    assert report.precision == pytest.approx(precision)
    assert report.recall == pytest.approx(recall)
    assert report.frechet_distance == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert report.kernel_distance == pytest.approx(kernel_distance(a, b), rel=1e-9)
    assert report.class_accuracy == pytest.approx(float((fake[:, 0, 0, 0] % 2 == 0).float().mean()))
    known = (real[:, 0, 0, 0].numpy() % 2 == labels).mean()
    assert report.classifier_accuracy == pytest.approx(known)


def test_of_images_without_a_class_none_counts_as_missed():
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    data = ArrayData("noise", images.numpy(), np.arange(40) % 2, ("a", "b"))
    asked = (images[:15], torch.zeros(15).long())
    report = Evaluation(PixelExtractor(), data)([asked, (images[15:], None)], {})
    assert report.class_accuracy == pytest.approx(
        float((images[:15, 0, 0, 0] % 2 == 0).float().mean())
    )
    assert Evaluation(PixelExtractor(), data)([(images, None)], {}).class_accuracy is None


def test_the_real_distance_is_that_of_every_second_image_of_a_class():
    images = np.random.RandomState(3).randint(0, 256, (60, 1, 8, 8), np.uint8)
    labels = np.arange(60) % 3
    data = ArrayData("noise", images, labels, ("a", "b", "c"))
    evaluation = Evaluation(PixelExtractor(), data)
    own = PixelExtractor()(torch.from_numpy(images)).vectors
    # The classes of the features in their own order, by which image each is of.
    number = (evaluation.real[:, None] == own[None]).all(dim=2).int().argmax(dim=1).numpy()
    by_class = np.concatenate([np.flatnonzero(labels[number] == c) for c in range(3)])
    halves = evaluation.real[by_class[0::2]], evaluation.real[by_class[1::2]]
    assert evaluation.real_distance == pytest.approx(frechet_distance(*halves), rel=1e-9)
    assert evaluation.real_recall == precision_recall(*halves)[1]
    assert evaluation.real_distance > 10


def test_halves_of_real_images_are_alike_even_if_the_data_is_sorted():
    images = np.zeros((200, 1, 8, 8), np.uint8)
    images[100:] = 255
    extractor = ClassifierExtractor(Classifier(ClassifierConfig(resolution=8, channels=1)), "d")
    evaluation = Evaluation(extractor, ArrayData("sorted", images))
    spread = frechet_distance(evaluation.real[:100], evaluation.real[:100] + 1)
    assert evaluation.real_distance < spread / 10


def test_halves_of_real_images_split_each_class():
    """Random halves of the same images differ by how many of each class they hold."""
    labels = np.arange(200) % 2
    images = np.broadcast_to(255 * labels[:, None, None, None], (200, 1, 8, 8)).astype(np.uint8)
    extractor = ClassifierExtractor(Classifier(ClassifierConfig(resolution=8, channels=1)), "d")
    random = Evaluation(extractor, ArrayData("nameless", images))
    split = Evaluation(extractor, ArrayData("named", images, labels, ("a", "b")))
    assert torch.equal(random.real.sort(dim=0).values, split.real.sort(dim=0).values)
    assert split.real_distance < 1e-3 * random.real_distance
    again = Evaluation(extractor, ArrayData("named", images, labels, ("a", "b")))
    assert again.real_distance == split.real_distance  # of the features that were kept
    # A file that a crash cut short is made again.
    for file in (storage.cache_directory() / "features").iterdir():
        os.truncate(file, file.stat().st_size // 2)
    again = Evaluation(extractor, ArrayData("named", images, labels, ("a", "b")))
    assert len(again.real) == 200
    assert again.real_distance == split.real_distance


def test_data_without_classes_has_no_classifier(tmp_path):
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(OvertoneError, match="has no classes"):
        classifier_of(str(tmp_path), 8, 1)


def test_a_cache_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OvertoneError, match=r"could not write .*file"):
        FeatureFile(tmp_path / "file" / "features", 2)
