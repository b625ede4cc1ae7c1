"""`overtone evaluate` from end to end: what it takes, what it refuses, statistics as published,
halves of classes, memorisation, solver error."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import TINY_DIFFIT, awake
from overtone import storage
from overtone.cli.app import main
from overtone.data import ArrayData
from overtone.errors import OvertoneError
from overtone.launch import Processes
from overtone.metrics import Evaluation, RandomExtractor, frechet_distance
from overtone.metrics.memorisation import nearest_of, reduced
from overtone.metrics.scores import Memorisation, all_scores, scores_by_name
from overtone.metrics.solver import Converged
from overtone.metrics.vectors import Held
from overtone.networks import DiffiTUNet
from overtone.pipelines import DiffiTPipeline, Request
from overtone.samplers import AncestralSampler, Sampler

SIZE = ["--resolution", "8", "--channels", "1"]


def pictures(folder, count, seed, classes=("cat", "dog")):
    draw = np.random.RandomState(seed)
    for number in range(count):
        place = folder / classes[number % len(classes)]
        place.mkdir(parents=True, exist_ok=True)
        pixels = draw.randint(0, 150 + 50 * (number % len(classes)), (8, 8), np.uint8)
        Image.fromarray(pixels).save(place / f"{number:03d}.png")
    return folder


def evaluated(capsys, *arguments):
    capsys.readouterr()
    main(["evaluate", *map(str, arguments), "--extractor", "random"])
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(3)
    pipe = DiffiTPipeline(awake(DiffiTUNet(TINY_DIFFIT)), Sampler(num_steps=3), precision="fp32")
    pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_one_set_of_images_in_every_form(tmp_path, model, capsys):
    """A model's images score the same from the model, a folder, a zip, an .npz and a parquet
    file."""
    import zipfile

    import datasets

    real = pictures(tmp_path / "real", 40, 0, ("a", "b", "c"))
    ask = ["--data", real]
    main(["sample", str(model), "--seeds", "0-29", "--out", f"{tmp_path}/images"])
    main(["sample", str(model), "--seeds", "0-29", "--out", f"{tmp_path}/images.npz"])
    files = sorted((tmp_path / "images").iterdir())
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    rows = [{"image": {"bytes": file.read_bytes(), "path": None}} for file in files]
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    table.to_parquet(tmp_path / "images.parquet")
    (tmp_path / "runs").mkdir()
    expected = evaluated(capsys, model, "--seeds", "0-29", *ask)
    assert expected["images"] == 30
    for name in ("images", "images.zip", "images.npz", "images.parquet"):
        found = evaluated(capsys, tmp_path / name, *ask, *SIZE)
        for score in ("frechet_distance", "precision", "recall", "density", "coverage"):
            assert found[score] == pytest.approx(expected[score], rel=1e-5), (name, score)
        assert found["made_with"]["images"] == name
    # The array as ADM's evaluator and as numpy read it, its receipt beside it.
    with np.load(tmp_path / "images.npz") as batch:
        assert batch["arr_0"].shape == (30, 8, 8, 1)
        assert batch["arr_1"].tolist() == [seed % 3 for seed in range(30)]
        with Image.open(files[7]) as picture:
            assert np.array_equal(batch["arr_0"][7, :, :, 0], np.asarray(picture))
    capsys.readouterr()
    main(["replay", f"{tmp_path}/images.json", "--seed", "7", "--out", f"{tmp_path}/7.png"])
    with Image.open(tmp_path / "7.png") as again, Image.open(files[7]) as first:
        assert np.array_equal(np.asarray(again), np.asarray(first))


def test_a_recipe_s_run_by_its_name(tmp_path, model, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real = pictures(tmp_path / "real", 24, 0, ("a", "b", "c"))
    with pytest.raises(SystemExit):
        evaluated(capsys, "diffit-digits", "--data", real)
    assert "runs/diffit-digits holds no run of it" in capsys.readouterr().err
    (tmp_path / "runs" / "diffit-digits" / "checkpoints").mkdir(parents=True)
    model.rename(tmp_path / "runs" / "diffit-digits" / "checkpoints" / "000000032")
    storage.write_json(tmp_path / "runs" / "diffit-digits" / "run.json", {})
    found = evaluated(capsys, "diffit-digits", "--data", real, "--seeds", "0-15")
    assert found["made_with"]["model"] == "diffit-digits"


def test_statistics_take_the_place_of_images(tmp_path, capsys):
    real = pictures(tmp_path / "real", 60, 0)
    fake = pictures(tmp_path / "fake", 40, 1)
    main(["data", "statistics", str(real), *SIZE, "--extractor", "random",
          "--out", f"{tmp_path}/real.npz"])  # fmt: skip
    assert "60 images, random features" in capsys.readouterr().out
    by_images = evaluated(capsys, fake, "--data", real, *SIZE)
    by_statistics = evaluated(capsys, fake, "--data", tmp_path / "real.npz", *SIZE)
    for name in ("frechet_distance", "spatial_frechet_distance"):
        assert by_statistics[name] == pytest.approx(by_images[name], rel=1e-6)
        low, high = by_statistics["intervals"][name]
        assert low < by_statistics[name] < high
    assert "precision" not in by_statistics
    assert (by_statistics["real"], by_statistics["real_images"]) == ("real", 60)
    with np.load(tmp_path / "real.npz") as file:
        mu, sigma = file["mu"], file["sigma"]
    np.savez(tmp_path / "edm.npz", mu=mu, sigma=sigma)  # as EDM publishes them
    published = evaluated(capsys, fake, "--data", tmp_path / "edm.npz", *SIZE)
    assert published["frechet_distance"] == pytest.approx(by_images["frechet_distance"], rel=1e-6)
    np.savez(tmp_path / "other.npz", mu=mu[:9], sigma=sigma[:9, :9])
    for arguments, message in (
        (["--data", f"{tmp_path}/other.npz", "--extractor", "random"], "9 features, and random"),
        (["--data", f"{tmp_path}/real.npz"], "no images that a classifier could be trained on"),
        (["--data", f"{tmp_path}/real.npz", "--extractor", "random", "--scores", "kernel"],
         "holds statistics of spatial and vectors alone"),
        (["--data", f"{tmp_path}/real.npz", "--extractor", "random", "--scores", "memorisation"],
         "memorisation needs the training images, not statistics"),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            main(["evaluate", str(fake), *SIZE, *arguments])
        said = capsys.readouterr().err
        assert message in said, said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scores", "fid"], "unknown score 'fid'"),
        (["--scores", "class-accuracy"], "does not know the classes of the data"),
        (["--scores", "inception-score"], "gives no class scores"),
        (["--scores", "solver-error"], "solver error can't be told of these images"),
        (["--replicates", "-1"], "--replicates must be at least 0, not -1"),
        (["--real-images", "5"], "5 real images are too few"),
        (["--extractor-weights", "x.pth"], "the extractor random takes no weights"),
        (["--resolution", "16"], "is 8 x 8, smaller than the resolution 16"),
        (["--inception-weights", "x"], "--inception-weights is called --extractor-weights now"),
    ],
)
def test_what_is_refused_before_any_work(tmp_path, capsys, arguments, message):
    real, fake = pictures(tmp_path / "real", 24, 0), pictures(tmp_path / "fake", 24, 1)
    given = ["--data", str(real), "--extractor", "random", *SIZE]
    with pytest.raises(SystemExit):
        main(["evaluate", str(fake), *given, *arguments])
    said = capsys.readouterr().err
    assert message in said, said


def test_too_few_for_a_score_and_too_few_for_an_interval(tmp_path, capsys, monkeypatch):
    real, few = pictures(tmp_path / "real", 24, 0), pictures(tmp_path / "few", 5, 1)
    given = ["--data", str(real), "--extractor", "random", *SIZE]
    with pytest.raises(SystemExit):
        main(["evaluate", str(few), *given])
    said = capsys.readouterr().err
    assert "5 images are too few for density and coverage: 6 are the least" in said
    # A model's images are not even made.
    main_model = tmp_path / "untrained"
    DiffiTPipeline(DiffiTUNet(TINY_DIFFIT)).save_pretrained(main_model)
    real_of_three = pictures(tmp_path / "three", 24, 0, ("a", "b", "c"))
    asked = ["--data", str(real_of_three), "--seeds", "0-4", "--extractor", "random"]
    monkeypatch.setattr(
        "overtone.networks.diffit.DiffiTUNet.forward", lambda *_, **__: pytest.fail("made")
    )
    with pytest.raises(SystemExit):
        main(["evaluate", str(main_model), *asked])
    assert "5 images are too few for density and coverage" in capsys.readouterr().err
    found = evaluated(capsys, few, "--data", real, *SIZE, "--scores", "frechet", "precision-recall")
    assert found["intervals"] == {"frechet_distance": None, "precision": None, "recall": None}


def test_extrapolation_takes_the_bias_off(tmp_path, capsys):
    real, fake = pictures(tmp_path / "real", 60, 0), pictures(tmp_path / "fake", 60, 1)
    given = fake, "--data", real, *SIZE, "--scores", "frechet"
    raw, extrapolated = evaluated(capsys, *given), evaluated(capsys, *given, "--extrapolate")
    bias = raw["biases"]["frechet_distance"]
    assert bias > 0
    name = "frechet_distance"
    assert extrapolated[name] == pytest.approx(raw[name] - bias, abs=1e-9)
    for end, other in zip(extrapolated["intervals"][name], raw["intervals"][name], strict=True):
        assert end == pytest.approx(other - bias, abs=1e-9)


def test_halves_of_given_classes_have_as_many_of_each():
    """Classes far apart, as many of each on both sides: halves that differed in their numbers would
    put the bias of the distance at several times the distance itself."""
    labels = np.arange(400) % 2

    def images(seed):
        own = np.random.RandomState(seed)
        return (own.randint(0, 40, (400, 1, 8, 8)) + 200 * labels[:, None, None, None]).astype(
            np.uint8
        )

    data = ArrayData("real", images(1), labels, ("dark", "bright"))
    evaluation = Evaluation(RandomExtractor(1), data, scores=scores_by_name(["frechet", "kernel"]))
    fake = torch.from_numpy(images(2))
    given = evaluation([(fake, torch.from_numpy(labels))], {})
    by_chance = evaluation([(fake, None)], {})
    for name in ("frechet_distance", "kernel_distance"):
        assert given.value(name) == by_chance.value(name)
        assert given.scores[name].error < 0.2 * by_chance.scores[name].error
    assert (
        abs(given.scores["frechet_distance"].bias) < 0.1 * by_chance.scores["frechet_distance"].bias
    )


def test_copies_of_training_images_are_found():
    training = np.random.RandomState(0).randint(0, 256, (300, 3, 96, 96), np.uint8)
    data = ArrayData("training", training)
    fakes = torch.from_numpy(np.random.RandomState(1).randint(0, 256, (40, 3, 96, 96), np.uint8))
    fakes[7] = torch.from_numpy(training[123])
    fakes[9] = (torch.from_numpy(training[200]).int() + 1).clamp(0, 255).to(torch.uint8)
    extractor = RandomExtractor(3)
    report = Evaluation(extractor, data, scores=(Memorisation(),))([(fakes, None)], {})
    assert report.memorised == pytest.approx(2 / 40)
    nearest = report.nearest
    assert nearest.indices[7, 0] == 123
    assert nearest.indices[9, 0] == 200
    assert nearest.distances[7, 0] == 0
    assert nearest.ratios[9] < 0.05
    low, high = report.interval("memorised")
    assert low == 0.0
    assert 0.05 < high < 0.2
    # By brute force, at the size at which they are compared.
    small, others = reduced(fakes), reduced(torch.from_numpy(training))
    away = ((small[:, None] - others[None]) ** 2).mean(dim=2).sqrt()
    two = away.topk(2, largest=False)
    assert torch.allclose(nearest.distances, two.values, atol=1e-5)
    assert torch.equal(nearest.indices[:, 0], two.indices[:, 0])
    picture = nearest.picture(2)
    assert picture.size == (3 * 65 - 1, 2 * 65 - 1)
    assert nearest_of(Held(small[:3]), data).distances.shape == (3, 2)


def test_a_report_of_memorisation_goes_to_other_processes():
    """Without what is open files; the process that draws the picture keeps that."""
    import pickle
    from dataclasses import replace

    images = np.random.RandomState(0).randint(0, 256, (30, 1, 8, 8), np.uint8)
    sent = []

    class Gathering(Processes):
        def gather(self, value):
            sent.append(pickle.loads(pickle.dumps(value)))
            return [sent[-1]]

    data = ArrayData("training", images)
    evaluation = Evaluation(RandomExtractor(1), data, among=Gathering(), scores=(Memorisation(),))
    report = evaluation([(torch.from_numpy(images), None)], {})
    assert report.nearest is not None
    assert sent[-1].nearest is None
    assert sent[-1].scores == report.scores
    assert replace(report, nearest=None).memorised == 1.0


def test_data_that_never_repeat_are_not_memorised(tmp_path, capsys):
    from overtone.data import open_data

    glyphs = open_data("builtin:glyphs", 16, 1)
    with pytest.raises(OvertoneError, match="memorisation can't be told: builtin:glyphs never"):
        Evaluation(RandomExtractor(1), glyphs, limit=20, scores=(Memorisation(),))


@pytest.mark.slow
def test_the_solver_error_falls_with_the_steps_at_the_order_of_the_solver(model):
    """Heun's is of second order: twice the steps, a quarter of the error. The error that is left in
    the converged images is told."""
    from overtone import load_pipeline

    pipe = load_pipeline(model)
    pipe.precision = "fp32"
    errors = []
    for steps in (8, 16):
        request = Request(range(3), steps=steps)
        converged = Converged(pipe, request, steps=64)
        batches = list(pipe.stream(request))
        (made,) = converged.batches(batches)
        assert torch.equal(made[0], batches[0].images)
        errors.append(float(made[2]["squared_errors"].mean().sqrt()))
        remaining = converged.remaining(batches[0])
    assert 2.5 < errors[0] / errors[1] < 6
    assert remaining < errors[1] / 4
    coarser = Converged(pipe, Request(range(3)), steps=32).remaining(batches[0])
    assert 3 < coarser / remaining < 6  # of second order as well, where Euler's would be 2
    report = Evaluation(
        RandomExtractor(1),
        ArrayData("real", np.random.RandomState(0).randint(0, 256, (20, 1, 8, 8), np.uint8)),
        scores=scores_by_name(["solver-error"]),
    )([made, made], {})
    assert report.solver_error == pytest.approx(errors[1], rel=1e-6)
    for sampler in (AncestralSampler(num_steps=3), Sampler(eta=0.5)):
        pipe.sampler = sampler
        with pytest.raises(OvertoneError, match="draws noise on the way"):
            Converged(pipe, Request(range(2)))


def test_a_score_of_ones_own(tmp_path, capsys):
    (tmp_path / "contrast.py").write_text(
        """
from dataclasses import dataclass
from typing import ClassVar
from overtone.metrics import Measure, Score

@dataclass(frozen=True)
class SecondFeature(Score, kind="second-feature"):
    measures: ClassVar = (Measure("second_feature", "second feature", lowest=0.0),)
    real_needs: ClassVar = ()
    def __call__(self, real, fake):
        return (fake.totals("vectors")[:, 1] / fake.numbers,)
"""
    )
    real, fake = pictures(tmp_path / "real", 24, 0), pictures(tmp_path / "fake", 24, 1)
    found = evaluated(capsys, fake, "--data", real, *SIZE, "--import", tmp_path / "contrast.py",
                      "--scores", "second-feature")  # fmt: skip
    low, high = found["intervals"]["second_feature"]
    assert low < found["second_feature"] < high
    from overtone.registry import FAMILIES

    FAMILIES["score"].kinds.pop("second-feature")


def test_every_score_says_what_it_is():
    names = [measure.name for score in all_scores() for measure in score.measures]
    assert len(names) == len(set(names)) == 12
    for score in all_scores():
        assert score.title
        assert score.least >= 4
        assert re.fullmatch(r"[a-z-]+", score.kind)


def test_the_table_and_the_numbers(tmp_path, capsys):
    real, fake = pictures(tmp_path / "real", 40, 0), pictures(tmp_path / "fake", 40, 1)
    main(["evaluate", str(fake), "--data", str(real), *SIZE, "--extractor", "random",
          "--out", f"{tmp_path}/scores.json"])  # fmt: skip
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert json.loads((tmp_path / "scores.json").read_text()) == found
    for words in ("Fréchet distance", "95 % interval", "bias (finite N)", "coverage"):
        assert words in told.err
    features = [
        RandomExtractor(1)(
            torch.stack(
                [torch.from_numpy(np.array(Image.open(f)))[None] for f in sorted(p.rglob("*.png"))]
            )
        ).vectors
        for p in (real, fake)
    ]
    assert found["frechet_distance"] == pytest.approx(frechet_distance(*features), rel=1e-5)
