"""Figures of the papers: sweeps over a setting, and two models' spectra side by side."""

import ast
import csv
import dataclasses
import json
from itertools import product
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers import DIFFUSERS_MARKS, TINY_ADM, TINY_DIFFIT, TINY_TRANSFORMER, awake
from overtone.analysis.figures.sweeps import Curve
from overtone.analysis.fourier import spectra_of
from overtone.cli.analyze import FIGURES
from overtone.cli.analyze.split import most_steps, splits_of
from overtone.cli.app import main
from overtone.data import ArrayData
from overtone.denoisers import ADM_DIFFUSION, GuidanceSettings
from overtone.errors import OvertoneError
from overtone.metrics import Evaluation
from overtone.metrics.features import Extractor, Features
from overtone.metrics.scores import measures
from overtone.networks import ADMUNet, DiffiTTransformer, DiffiTUNet, temporalize
from overtone.pipelines import (
    DiffiTPipeline,
    DSNOPipeline,
    Pipeline,
    RelayPipeline,
    Request,
)
from overtone.processes import RelayProcess
from overtone.samplers import AncestralSampler, Sampler

pytestmark = DIFFUSERS_MARKS


class Means(Extractor):
    """Features that cost nothing."""

    name, digest, dims = "means", "0", 3

    def __call__(self, pixels):
        halves = pixels.float().flatten(1).chunk(3, dim=1)
        return Features(torch.stack([half.mean(1) for half in halves], dim=1), None)


def real_images():
    torch.manual_seed(7)
    return ArrayData("noise", (torch.rand(64, 1, 8, 8) * 255).byte().numpy())


@pytest.fixture
def judged(monkeypatch):
    """Evaluations are of the features above."""

    def evaluation(self, data, resolution, channels, asked, num_classes=0, class_names=()):
        return Evaluation(Means(), real_images())

    monkeypatch.setattr("overtone.cli.evaluate.Judging.evaluation", evaluation)


def calls_of(pipe, request):
    """Images that the networks of a pipeline are really asked for."""
    count = 0

    def tell(module, inputs):
        nonlocal count
        count += len(inputs[0])

    networks = list(pipe.network.experts or [pipe.network])
    networks += [] if request.guide is None else [request.guide.network]
    handles = [network.register_forward_pre_hook(tell) for network in networks]
    for _ in pipe.path(request):
        pass
    for handle in handles:
        handle.remove()
    return count


def plain(sampler=None, **more):
    return Pipeline(awake(ADMUNet(TINY_ADM)), sampler or Sampler(num_steps=5), **more)


def heun(steps):
    return 2 * steps - 1


def test_splits_add_up_and_come_nearest_to_their_shares():
    single = int  # a step costs one call
    found = splits_of(10, [0.1, 0.3, 0.5, 0.9], single, single)
    assert [(s.first_calls, s.second_calls) for s in found] == [(1, 9), (3, 7), (5, 5), (9, 1)]
    assert [s.share for s in found] == [0.1, 0.3, 0.5, 0.9]
    for total, share in product(range(2, 40), (0.0, 0.2, 0.35, 0.5, 0.8, 1.0)):
        try:
            found = splits_of(total, [share, 0.5], heun, heun)
        except OvertoneError:
            continue
        for split in found:
            assert split.first_calls == heun(split.first_steps)
            assert split.second_calls == heun(split.second_steps)
            used = split.first_calls + split.second_calls
            assert total - used in (0, 1)  # a Heun step more would cost two
    # By search over all splits: nobody is nearer to the share.
    (*_, best) = splits_of(30, [0.1, 0.62], heun, single)
    every = [heun(n) for n in range(1, 15)]
    assert abs(best.first_calls - 18.6) == min(abs(calls - 18.6) for calls in every)
    assert best.first_calls + best.second_calls == 30


def test_the_most_steps_for_some_calls():
    for calls in range(1, 50):
        assert most_steps(heun, calls) == (calls + 1) // 2
    # Fewer than 3 steps there can't be.
    lowest = lambda steps: None if steps < 3 else 10 * steps  # noqa: E731
    assert most_steps(lowest, 45) == 4
    assert most_steps(lowest, 29) is None
    with pytest.raises(OvertoneError, match="--evaluations 2 can't be split in two ways"):
        splits_of(2, [0.1, 0.5, 0.9], heun, heun)


def test_the_best_value_is_the_lowest_distance_or_the_highest_share():
    scores, nothing = [0.3, 0.1, 0.2], [None] * 3
    assert Curve(measures()["frechet_distance"], scores, nothing).best == 1
    assert Curve(measures()["recall"], scores, nothing).best == 0


def figure_of(tmp_path, what, *arguments):
    out = tmp_path / "figure.png"
    main(["analyze", what, *map(str, arguments), "--out", str(out)])
    with Image.open(out) as figure:
        assert figure.width > 300
    return json.loads(out.with_suffix(".json").read_text())


def test_a_figure_of_the_distance_against_eta(judged, tmp_path, capsys):
    """Each report is that of the images that the pipeline makes with that eta."""
    pipe = plain(Sampler(num_steps=4, estimate="averaged_estimates"), data="builtin:digits")
    pipe.save_pretrained(tmp_path / "model")
    command = tmp_path / "model", "--etas", "0.8", "0", "--seeds", "0-19"
    reports = figure_of(tmp_path, "eta", *command, "--drawn", "frechet-distance", "recall")
    assert [report["value"] for report in reports] == [0.0, 0.8]
    assert [report["made_with"]["sampler"]["eta"] for report in reports] == [0.0, 0.8]
    assert [report["evaluations"] for report in reports] == [7, 7]
    captured = capsys.readouterr()
    assert "eta 0.8: Fréchet distance" in captured.err
    assert "the lowest Fréchet distance, " in captured.out
    evaluation, own = Evaluation(Means(), real_images()), Pipeline.from_pretrained(command[0])
    for report in reports:
        own.sampler = dataclasses.replace(own.sampler, eta=report["value"])
        found = evaluation(((b.images, b.class_labels) for b in own.stream(range(20))), {})
        assert report["frechet_distance"] == pytest.approx(found.frechet_distance, rel=1e-3)
        assert report["intervals"]["frechet_distance"][0] <= report["frechet_distance"]


def test_a_figure_of_the_split_between_a_relays_stages(judged, tmp_path, capsys):
    """The calls in the file are those that the networks answer."""
    second = dataclasses.replace(TINY_ADM, resolution=16, attention_resolutions=(8,))
    low = Sampler(num_steps=4, sigma_min=0.01, truncation_sigma=0.9, estimate="two_step")
    relay = RelayPipeline(awake(ADMUNet(second)), low, process=RelayProcess(patch=2), data="x")
    relay.first = DiffiTPipeline(awake(DiffiTUNet(TINY_DIFFIT)), Sampler(num_steps=3))
    relay.first.guidance = GuidanceSettings(scale=2.0)
    relay.save_pretrained(tmp_path / "relay")
    reports = figure_of(
        tmp_path, "split", tmp_path / "relay", "--evaluations", "20", "--shares", "0.1", "0.5",
        "0.8", "--seeds", "0-7", "--data", "x",
    )  # fmt: skip
    assert len(reports) == 3
    shares = [report["value"] for report in reports]
    assert shares == sorted(shares)
    own = Pipeline.from_pretrained(tmp_path / "relay")
    for report in reports:
        first = own.start.pipeline
        assert report["first_calls"] + report["second_calls"] <= 20
        assert report["value"] == report["first_calls"] / (
            report["first_calls"] + report["second_calls"]
        )
        first.sampler = first.sampler.with_steps(report["first_steps"])
        assert calls_of(first, Request([0])) == report["first_calls"]
        request = Request([0], steps=report["second_steps"])
        assert calls_of(own, request) == report["second_calls"]
        made = report["made_with"]
        assert made["sampler"]["num_steps"] == report["second_steps"]
    assert reports[0]["frechet_distance"] != reports[2]["frechet_distance"]
    assert "evaluations: Fréchet distance" in capsys.readouterr().err


def test_two_models_spectra_are_of_the_same_seeds_and_noise_levels(tmp_path):
    """The second model's curves are those along its own path, by the first one's sampler."""
    plain(Sampler(num_steps=6, estimate="single")).save_pretrained(tmp_path / "adm")
    network = awake(DiffiTUNet(TINY_DIFFIT))
    Pipeline(network, Sampler(num_steps=3)).save_pretrained(tmp_path / "diffit")
    found = figure_of(
        tmp_path, "spectrum", tmp_path / "adm", "--beside", tmp_path / "diffit", "--levels", "3",
        "--seeds", "2,5",
    )  # fmt: skip
    assert (found["model"], found["beside"]["model"]) == ("adm", "diffit")
    assert found["sigmas"] == found["beside"]["sigmas"]
    assert len(found["sigmas"]) == 3
    own = Pipeline.from_pretrained(tmp_path / "diffit")
    own.sampler = Sampler(num_steps=6, estimate="single")
    begun = own.begin([2, 5])
    path = [(s.sigma, s.x) for s in begun.steps if s.sigma in found["sigmas"]]
    again = spectra_of(own.denoiser, path, begun.class_labels)
    for name, curves in zip(("images", "sigmas"), (again.images, again.sigmas), strict=True):
        torch.testing.assert_close(
            torch.tensor(found["beside"][name]), torch.tensor(curves), rtol=1e-4, atol=1e-4
        )
    assert found["beside"]["layers"] == again.layers
    with (tmp_path / "figure.csv").open() as file:
        rows = list(csv.DictReader(file))
    counts = {model: sum(row["model"] == model for row in rows) for model in ("adm", "diffit")}
    assert counts == {"adm": 3 * (1 + len(found["layers"])), "diffit": 3 * (1 + len(again.layers))}
    assert str(tmp_path) not in json.dumps(found)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    own = {"data": "builtin:digits"}
    plain(Sampler(num_steps=3), **own).save_pretrained(root / "model")
    plain(Sampler(num_steps=1), **own).save_pretrained(root / "one")
    five = ADMUNet(dataclasses.replace(TINY_ADM, num_classes=5))
    Pipeline(five, Sampler(num_steps=3)).save_pretrained(root / "five")
    large = ADMUNet(dataclasses.replace(TINY_ADM, resolution=16))
    Pipeline(large, Sampler(num_steps=3)).save_pretrained(root / "larger")
    DSNOPipeline(temporalize(DiffiTUNet(TINY_DIFFIT))).save_pretrained(root / "operator")
    Pipeline(
        DiffiTTransformer(dataclasses.replace(TINY_TRANSFORMER, channels=1)),
        AncestralSampler(num_steps=3),
        preconditioning=ADM_DIFFUSION,
        **own,
    ).save_pretrained(root / "ancestral")
    low = Sampler(num_steps=3, sigma_min=0.01, sigma_max=0.5)
    relay = RelayPipeline(ADMUNet(TINY_ADM), low, process=RelayProcess(patch=2))
    relay.save_pretrained(root / "relay")
    small = dataclasses.replace(TINY_DIFFIT, resolution=4, widths=(16,), num_cells=(1,))
    relay.first = DSNOPipeline(temporalize(DiffiTUNet(small)))
    relay.save_pretrained(root / "oneshot")
    return root


WRONG = [
    ("eta {root}/ancestral", "the model's sampler, AncestralSampler, has no eta"),
    ("eta {root}/operator", "the model's sampler, OperatorSampler, has no eta"),
    ("eta {root}/model --etas 0.5", "--etas takes two different etas or more"),
    ("eta {root}/model --etas 0 1.5", "--etas must be in [0, 1], not 1.5"),
    ("eta {root}/model --sampler.eta 0.3", "leave out --sampler.eta: --etas has the values"),
    ("eta {root}/model --drawn frechet", "unknown score to draw 'frechet': did you mean"),
    ("eta {root}/model --drawn", "--drawn takes one score or more of frechet_distance"),
    ("guidance {root}/model --drawn recal", "unknown score to draw 'recal': did you mean 'recall'"),
    (
        "split {root}/model",
        "has no first stage that is a model: this figure divides the evaluations of a relay",
    ),
    ("split {root}/relay", "has no first stage that is a model"),
    ("split {root}/oneshot", "can't be split"),
    ("split {root}/model --evaluations 1", "--evaluations must be from 2 to 2,000, not 1"),
    ("split {root}/model --shares 0.5", "--shares takes two different shares or more"),
    ("split {root}/model --shares 0 nan", "--shares must be in [0, 1], not nan"),
    ("split {root}/model --steps 4", "this figure chooses the steps of both"),
    ("spectrum {root}/one", "samples in one step, so that there are no noise levels to show"),
    ("spectrum {root}/operator", "is an operator, which makes images in one evaluation"),
    ("spectrum {root}/model --levels 3", "--levels 3: the sampler passes 2 noise levels"),
    ("spectrum {root}/model --beside {root}/larger", "works on 8 px with 1 channels, and"),
    ("spectrum {root}/model --beside {root}/five", "has 3 classes, and"),
    ("spectrum {root}/model --beside {root}/relay", "inverts a GaussianProcess, and"),
    ("spectrum {root}/model --beside {root}/operator", "an operator has no noise levels"),
    ("spectrum {root}/model --beside {root}/nothing", "nothing does not exist"),
    ("spectrum {root}/model --out figure.csv", "--out is a .png file, not figure.csv"),
]


@pytest.mark.parametrize(("command", "answer"), WRONG, ids=[command for command, _ in WRONG])
def test_what_is_wrong_is_one_line(models, tmp_path, monkeypatch, capsys, command, answer):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["analyze", *command.format(root=models).split()])
    said = capsys.readouterr().err
    assert answer in " ".join(said.split())
    assert len(said.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


SENTENCES = sorted((Path(__file__).parent.parent / "src/overtone/cli/analyze").glob("*.py"))
SENTENCES.append(SENTENCES[0].parent.parent / "model.py")


@pytest.mark.parametrize("file", SENTENCES, ids=lambda file: file.stem)
def test_help_texts_are_whole_sentences(file):
    """What stands below an option of a command begins with a capital letter and ends with a full
    stop."""
    for kind in ast.walk(ast.parse(file.read_text())):
        if isinstance(kind, ast.ClassDef) and kind.name.endswith("Options"):
            texts = [
                entry.value.value
                for entry in kind.body
                if isinstance(entry, ast.Expr) and isinstance(entry.value, ast.Constant)
            ]
            assert texts
            for text in texts:
                words = " ".join(text.split())
                assert words[0].isupper(), words
                assert words.endswith("."), words
                assert not words.startswith("Of "), words


def test_every_figure_is_named_in_the_help(capsys):
    main(["analyze", "--help"])
    said = capsys.readouterr().out
    assert all(f"overtone analyze {figure} " in said for figure in FIGURES)
