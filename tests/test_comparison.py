"""Models compared: differences of the same seeds, budgets, the picture, bad input."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import overtone
from helpers import TINY_DIFFIT
from overtone.analysis.comparison import public_names
from overtone.cli.app import main
from overtone.data import ArrayData
from overtone.denoisers import GuidanceSettings
from overtone.errors import OvertoneError
from overtone.metrics import Evaluation
from overtone.metrics.features import Extractor, Features
from overtone.networks import DiffiTUNet
from overtone.pipelines import DiffiTPipeline, counting
from overtone.pipelines.budgets import Budget, FittedSampler
from overtone.pipelines.request import Request
from overtone.samplers import Sampler


class Means(Extractor):
    """Means of the image's quarters."""

    name, digest, dims = "means", "0", 4

    def __call__(self, pixels):
        means = torch.nn.functional.adaptive_avg_pool2d(pixels.float() / 255, 2)
        return Features(means.mean(dim=1).flatten(1))


@pytest.fixture(autouse=True)
def features(monkeypatch):
    """On features that cost nothing."""
    images = np.random.RandomState(0).randint(0, 256, (60, 1, 8, 8), np.uint8)
    real = ArrayData("real", images, np.arange(60) % 3, ("cat", "dog", "emu"))

    def evaluation(*arguments, scores=None, replicates=None, **named):
        return Evaluation(Means(), real, scores=scores, replicates=replicates)

    monkeypatch.setattr("overtone.training.judging.open_evaluation", evaluation)
    monkeypatch.setattr("overtone.analysis.comparison.open_evaluation", evaluation)


def model(seed, **changes):
    torch.manual_seed(seed)
    network = DiffiTUNet(dataclasses.replace(TINY_DIFFIT, **changes))
    for parameter in network.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return DiffiTPipeline(network, Sampler(num_steps=4), data="x", precision="fp32")


@pytest.fixture
def models(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        model(seed).save_pretrained(tmp_path / name)
    return str(tmp_path / "a"), str(tmp_path / "b")


def test_a_frame_of_scores_and_one_of_differences():
    pipes = {"one": model(0), "other": model(1)}
    found = overtone.compare(pipes, "x", range(48), evaluations=(3, 9), guidance_scale=1.0)
    frame = found.frame()
    assert list(frame["model"].unique()) == ["one", "other"]
    assert set(frame["score"]) == {
        "frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage"
    }  # fmt: skip
    assert sorted(frame["evaluations"].unique()) == [3.0, 9.0]
    assert (frame["seconds"] > 0).all()
    assert (frame["low"] <= frame["value"]).all()
    rows = found.differences()
    assert set(rows["against"]) == {"one"}
    value = frame.set_index(["model", "budget", "score"])
    for row in rows.to_dict("records"):
        own, base = (value.loc[(name, row["budget"], row["score"])] for name in ("other", "one"))
        biases = [0.0 if math.isnan(b) else b for b in (own["bias"], base["bias"])]
        expected = (own["value"] - biases[0]) - (base["value"] - biases[1])
        assert row["difference"] == pytest.approx(expected, abs=1e-6)
        assert row["low"] <= row["difference"] <= row["high"]


def test_a_model_does_not_differ_from_itself():
    pipe = model(0)
    found = overtone.compare({"a": pipe, "again": pipe}, "x", range(32), scores=("frechet",))
    (row,) = found.differences().to_dict("records")
    assert row["difference"] == row["low"] == row["high"] == 0.0
    first, second = found.entries
    assert torch.equal(first.images, second.images)


def test_the_solver_error_is_compared_and_refused_early():
    pipes = {"a": model(0), "b": model(0)}
    pipes["b"].sampler = Sampler(num_steps=16)
    found = overtone.compare(pipes, "x", range(4), scores=("solver-error",))
    coarse, fine = (entry.report.solver_error for entry in found.entries)
    assert fine < coarse / 3
    pipes["b"].sampler = Sampler(num_steps=4, eta=0.5)
    made = []
    pipes["a"].stream = lambda *_: made.append(1)  # nothing is made before the second is refused
    with pytest.raises(OvertoneError, match="this Sampler draws noise on the way"):
        overtone.compare(pipes, "x", range(4), scores=("solver-error",))
    assert not made


def test_converged_images_are_made_once_for_all_budgets():
    pipes = {"a": model(0), "b": model(1)}
    with counting(pipes["a"]) as counter:
        found = overtone.compare(
            pipes, "x", range(6), evaluations=(3, 9), guidance_scale=1.0, batch_size=4,
            scores=("solver-error",),
        )  # fmt: skip
    # Beside 128 steps of Heun's method, each budget, and the images that are shown.
    assert counter.an_image(6).own == 255 + 2 * (3 + 9)
    for entry in found.of("b"):
        alone = overtone.compare(
            pipes, "x", range(6), evaluations=(entry.budget,), guidance_scale=1.0, batch_size=4,
            scores=("solver-error",),
        )  # fmt: skip
        assert entry.report.solver_error == alone.of("b")[0].report.solver_error


def test_a_fitted_sampler_answers_its_number_of_evaluations(capsys):
    pipes = {"fitted": model(0), "other": model(0)}
    own = FittedSampler.of(
        pipes["fitted"], Sampler(3, levels=(5.0, 1.0, 0.1)), GuidanceSettings(1.0)
    )
    pipes["fitted"].budgets = (Budget(3, own, error=0.1, default_error=0.2),)
    few = {"scores": ("frechet",), "guidance_scale": 1.0}
    found = overtone.compare(pipes, "x", range(16), evaluations=(3,), **few)
    assert "3 function evaluations: no sampler was fitted" in capsys.readouterr().err
    ours, theirs = (found.of(name)[0].images for name in pipes)
    request = {"seeds": range(4), "class_labels": [0, 1, 2, 0], "guidance_scale": 1.0}
    (by_hand,) = pipes["fitted"].stream(**request, sampler=own.sampler)
    assert torch.equal(ours[:4], by_hand.images)
    assert not torch.equal(ours[:4], theirs[:4])


def test_the_solver_error_of_a_fitted_sampler_is_its_own():
    """The converged images are those of many steps, whatever sampler is asked for."""
    pipe, other = model(0), model(0)
    poor = FittedSampler.of(pipe, Sampler(3, levels=(5.0, 4.0, 3.0)), GuidanceSettings(1.0))
    pipe.budgets = (Budget(3, poor, error=0.1, default_error=0.2),)
    asked = {"scores": ("solver-error",), "guidance_scale": 1.0}
    found = overtone.compare({"a": pipe, "b": other}, "x", range(6), evaluations=(3,), **asked)
    request = Request(range(6), guidance_scale=1.0, sampler=poor.sampler)
    (made,) = pipe.stream(request)
    (exact,) = pipe.stream(dataclasses.replace(request, sampler=Sampler(300, sigma_max=5.0)))
    expected = (made.unrounded.clamp(-1, 1) - exact.unrounded.clamp(-1, 1)).square()
    assert found.of("a")[0].report.solver_error == pytest.approx(
        float(expected.mean()) ** 0.5, rel=0.01
    )


def test_guidance_is_counted():
    pipes = {"a": model(0), "b": model(1)}
    found = overtone.compare(pipes, "x", range(32), scores=("frechet",), guidance_scale=2.0)
    assert {entry.evaluations for entry in found.entries} == {14.0}  # 4 steps, 7, twice each


def test_the_command_writes_a_picture_numbers_and_tables(models, tmp_path, capsys):
    out = tmp_path / "compare.png"
    main(["compare", *models, "--data", "x", "--seeds", "0-31", "--evaluations", "7", "5",
          "--out", str(out), "--scores", "frechet", "kernel"])  # fmt: skip
    told = capsys.readouterr()
    rows = json.loads(told.out)
    assert {(row["model"], row["against"]) for row in rows} == {("b", "a")}
    assert {row["budget"] for row in rows} == {5, 7}
    for words in ("Fréchet distance", "function evaluations", "b minus a"):
        assert words in told.err
    with Image.open(out) as picture:
        assert picture.width > 500
    kept = json.loads(out.with_suffix(".json").read_text())
    assert len(kept["entries"]) == 4
    assert "/" not in json.dumps([e["model"] for e in kept["entries"]])
    assert out.with_suffix(".csv").read_text().startswith("model,budget,evaluations,seconds,score")


@pytest.mark.parametrize(
    ("pipes", "asked", "message"),
    [
        (lambda: {"a": model(0)}, {}, "takes two models or more"),
        (dict, {}, "takes two models or more"),
        (lambda: {"a": model(0), "b": model(0, resolution=16)}, {}, "a makes images of 8 px and b"),
        (lambda: {"a": model(0), "b": model(0, channels=3)}, {}, "of 1 channels and b of 3"),
        (lambda: {"a": model(0), "b": model(0, num_classes=5)}, {}, "of 3 classes and b of 5"),
        (lambda: {"a": model(0), "b": model(1)}, {"evaluations": (0,)}, "of at least 1"),
        (lambda: {"a": model(0), "b": model(1)}, {"scores": ("fid",)}, "unknown score"),
        (lambda: {"a": model(0), "b": model(1)}, {"seeds": range(2)}, "2 images are too few"),
        (lambda: {"a": model(0), "b": model(1)}, {"class_labels": 7}, "outside 0..2"),
    ],
)
def test_what_can_not_be_compared(pipes, asked, message):
    with pytest.raises(OvertoneError, match=message):
        overtone.compare(pipes(), "x", **{"seeds": range(16)} | asked)


def test_what_the_command_refuses(models, tmp_path, capsys):
    for arguments, message in (
        ([models[0]], "two models or more"),
        ([*models, "--out", "x.jpg"], "--out is a .png file"),
        (["diffit-cifar10", models[0]], "runs/diffit-cifar10 holds no run of it"),
        ([models[0], str(tmp_path / "absent")], "absent does not exist"),
    ):
        with pytest.raises(SystemExit):
            main(["compare", *arguments, "--data", "x"])
        assert message in capsys.readouterr().err


def test_names_are_public_and_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("home/a", "runs/a"):
        (tmp_path / folder).mkdir(parents=True)
    assert public_names([f"{tmp_path}/home/a", "runs/a", "you/a"]) == ["a", "a (2)", "you/a"]
