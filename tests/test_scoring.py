"""Scores at the checkpoints of a run: in the log, within their share of the time, refused early."""

from dataclasses import replace

import pytest
import torch

from overtone.cli import app
from overtone.errors import OvertoneError
from overtone.metrics import ClassifierExtractor
from overtone.networks import Classifier, ClassifierConfig
from overtone.runs import best_told, find_checkpoint, read_log
from overtone.training import scoring
from overtone.training.loop import Trainer
from runs import TINY


@pytest.fixture(autouse=True)
def classifier(monkeypatch):
    """One that is not trained: what is tested is when and on what scores are computed."""
    torch.manual_seed(0)
    config = ClassifierConfig(resolution=8, channels=1, widths=(4, 8), num_features=6)
    extractor = ClassifierExtractor(Classifier(config), "d")
    monkeypatch.setattr("overtone.training.classifier.classifier_of", lambda *_, **__: extractor)


def scored(recipe, images=32, **changes):
    reporting = replace(recipe.reporting, scored_images=images, **changes)
    return replace(recipe, reporting=reporting)


def test_each_checkpoint_is_scored_in_the_log(tmp_path):
    recipe = scored(TINY, score_share=1.0)
    Trainer.of(recipe, show=False).run(tmp_path / "run")
    lines = [line for line in read_log(tmp_path / "run") if "frechet_distance" in line]
    seen = [line["images"] for line in lines]
    checkpoints = range(recipe.reporting.checkpoint_images, recipe.training.total_images + 1,
                        recipe.reporting.checkpoint_images)  # fmt: skip
    assert seen == list(checkpoints)
    for line in lines:
        assert line["scored_images"] == 32
        assert line["frechet_distance_low"] <= line["frechet_distance"]
        assert line["frechet_distance"] <= line["frechet_distance_high"]
        assert 0 <= line["class_accuracy"] <= 1
    # The weights of a run do not depend on whether it is scored.
    Trainer.of(TINY, show=False).run(tmp_path / "plain")
    one, other = (
        (find_checkpoint(tmp_path / name) / "network" / "model.safetensors").read_bytes()
        for name in ("run", "plain")
    )
    assert one == other


def test_scores_take_their_share_of_the_time_and_no_more(tmp_path, monkeypatch, capsys):
    """On a clock of its own, on which each look takes ten seconds: one scoring is as long as the
    whole run."""
    ticks = iter(range(0, 10**6, 10))
    monkeypatch.setattr(scoring.time, "perf_counter", lambda: next(ticks))
    recipe = scored(TINY, score_share=0.1)
    progress = Trainer.of(recipe).run(tmp_path / "run")
    lines = [line for line in read_log(tmp_path / "run") if "frechet_distance" in line]
    assert len(lines) == 1
    assert progress.scoring_seconds == 10
    assert "a checkpoint's scores took 10 s, and may take 10% of the run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (scored(TINY, images=3), "3 images are too few to evaluate"),
        (scored(TINY, scores=("frechets",)), "did you mean 'frechet'"),
        (scored(TINY, score_extractor="random"), "does not know the classes of the data"),
        (scored(TINY, scores=("solver-error",)), "is not computed at checkpoints"),
        (scored(replace(TINY, data="python:mine")), "given to train"),
    ],
)
def test_what_can_not_be_scored_is_refused_before_training(tmp_path, recipe, message):
    trained = Trainer.of(TINY if "python" in recipe.data else recipe, show=False)
    trained.task.recipe = recipe
    trained.reporting = recipe.reporting
    with pytest.raises(OvertoneError, match=message):
        trained.run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_curve_shows_the_scores(tmp_path):
    from PIL import Image

    from overtone.analysis.plots import training_curve

    loss = [{"images": n, "loss": 1 / n} for n in (32, 64, 96)]
    scored = [
        {"images": n, "frechet_distance": 3 / n, "frechet_distance_low": 2 / n,
         "frechet_distance_high": 5 / n, "class_accuracy": n / 200}
        for n in (32, 96)
    ]  # fmt: skip
    training_curve(loss, tmp_path / "plain.png")
    training_curve(loss + scored, tmp_path / "scored.png")
    with Image.open(tmp_path / "plain.png") as one, Image.open(tmp_path / "scored.png") as two:
        assert two.width == 2 * one.width  # two panels more, of half its width
        assert two.height == one.height


def test_the_curve_shows_scores_that_are_not_positive():
    from matplotlib.figure import Figure

    from overtone.analysis.plots import _scored

    for low, scale in ((0.1, "log"), (-0.1, "linear")):
        axes = Figure().subplots()
        entry = {"images": 32, "kernel_distance": 0.2, "kernel_distance_low": low,
                 "kernel_distance_high": 0.5}  # fmt: skip
        _scored(axes, [entry], "kernel_distance")
        assert axes.get_yscale() == scale


def test_the_best_checkpoint_is_that_of_the_best_score(tmp_path, monkeypatch, capsys):
    """Scores that rise and fall as they are told to, the loss saying otherwise."""
    values = iter([0.2, 0.9, 0.4, 0.5])
    real = scoring.Scoring.__call__

    def told(self, average, progress, *, show):
        return real(self, average, progress, show=show) | {"class_accuracy": next(values)}

    monkeypatch.setattr(scoring.Scoring, "__call__", told)
    recipe = scored(TINY, score_share=1.0, best="class-accuracy", checkpoint_images=64)
    progress = Trainer.of(recipe, show=False).run(tmp_path / "run")
    assert (progress.best_images, progress.best_value) == (128, 0.9)
    assert progress.best_by == "class accuracy"
    assert find_checkpoint(tmp_path / "run", "best").name == "000000128"
    assert best_told(tmp_path / "run") == "000000128, by class accuracy (0.9)"
    app.main(["info", str(tmp_path / "run")])
    assert "best checkpoint: 000000128, by class accuracy (0.9)" in capsys.readouterr().out
    # Where it goes on by another criterion, those that are still there are ranked by that.
    loss = replace(recipe, reporting=replace(TINY.reporting, keep=3))
    progress = Trainer.of(loss, show=False).run(tmp_path / "run")
    log = {
        e["images"]: e["held_out_loss"] for e in read_log(tmp_path / "run") if "held_out_loss" in e
    }
    kept = {images: log[images] for images in (128, 256)}
    assert progress.best_by == "held-out loss"
    assert progress.best_images == min(kept, key=kept.get)


def test_before_a_score_there_is_no_best_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring.Scoring, "__call__", lambda *_, **__: {})
    recipe = scored(TINY, best="frechet-distance")
    Trainer.of(recipe, show=False).run(tmp_path / "run")
    with pytest.raises(OvertoneError, match="has been ranked by Fréchet distance yet"):
        find_checkpoint(tmp_path / "run", "best")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (scored(TINY, images=0, best="frechet-distance"), "needs scores at each checkpoint"),
        (scored(TINY, best="kernel-distance"), "is not among the scores of a checkpoint"),
        (scored(TINY, best="frechet"), "did you mean 'frechet-distance'"),
    ],
)
def test_what_can_not_choose_the_best_is_refused(recipe, message):
    with pytest.raises(OvertoneError, match=message):
        Trainer.of(recipe, show=False)
