"""Model cards: what the Hub reads of them, what readers see, and code that runs as it stands."""

import dataclasses
import json
import re
import sys

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from helpers import TINY_ADM, TINY_DIFFIT, TINY_DSNO, awake
from overtone import storage
from overtone.cli.app import main
from overtone.errors import OvertoneError
from overtone.networks.network import build
from overtone.pipelines import Card, CardScore, Pipeline, RelayPipeline, load_pipeline
from overtone.samplers import Sampler

NAMES = ("cat", "dog", "zebra")
CONFIG = dataclasses.replace(TINY_DIFFIT, num_classes=3)


@pytest.fixture(scope="module")
def pipe():
    return Pipeline(
        awake(build(CONFIG)), Sampler(num_steps=3), class_names=NAMES, data="builtin:digits"
    )


@pytest.fixture
def saved(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def front(folder):
    return ModelCard.load(folder / "README.md").data


def fails(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def report(pipe, path, **changes):
    """What `overtone evaluate --out` writes, as far as a card takes it."""
    made = {"weights": pipe.made_with()["weights"], "evaluations": 70.0}
    made["guidance"] = {"scale": 1.5}
    storage.write_json(path, {
        "images": 500, "frechet_distance": 0.0123, "class_accuracy": 0.994, "kernel_distance": None,
        "intervals": {"frechet_distance": [0.009, 0.017], "class_accuracy": None},
        "real": "digits", "real_images": 1500, "extractor": "classifier", "made_with": made,
    } | changes)  # fmt: skip
    return path


def test_the_code_of_a_card_runs_as_it_stands(saved, tmp_path):
    """The block of Python, with the place of the model filled in, and nothing else."""
    block = re.search(r"```python\n(.*?)```", (saved / "README.md").read_text(), re.S)[1]
    assert re.findall(r"^(?:from|import) .*", block, re.M) == ["from overtone import load_pipeline"]
    found: dict = {}
    exec(block.replace("PATH-OR-REPOSITORY", str(saved)), found)
    assert [image.size for image in found["images"]] == [(8, 8)] * 16


def test_what_the_hub_reads(pipe, tmp_path):
    pipe = Pipeline(
        pipe.network, pipe.sampler, class_names=NAMES, data="hf:uoft-cs/cifar10?label=fine",
        training={"initialised from": "you/model"}, license="cc-by-4.0",
    )  # fmt: skip
    score = CardScore("frechet_distance", "Fréchet distance", 0.5, "0.5", "500 images")
    samples = Image.new("L", (20, 20), 7)
    pipe.save_pretrained(tmp_path / "pipe", card=Card([score], samples.save))
    known = front(tmp_path / "pipe")
    assert (known.license, known.library_name) == ("cc-by-4.0", "overtone")
    assert known.pipeline_tag == "unconditional-image-generation"
    assert (known.datasets, known.base_model) == (["uoft-cs/cifar10"], "you/model")
    assert {"diffusion", "DiffiTUNet", "class-conditional", "edm"} <= {*known.tags}
    assert not {"Sampler", "GaussianProcess", "latent-diffusion"} & {*known.tags}
    [found] = known.eval_results
    assert (found.metric_type, found.metric_value) == ("frechet_distance", 0.5)
    text = (tmp_path / "pipe" / "README.md").read_text()
    assert "| Fréchet distance | 0.5 | 500 images |" in text
    assert "![Uncurated samples](samples.png)" in text
    with Image.open(tmp_path / "pipe" / "samples.png") as image:
        assert image.getpixel((3, 3)) == 7
    again = load_pipeline(tmp_path / "pipe")
    assert again.license == "cc-by-4.0"  # and is kept where it is saved again


def test_what_is_not_known_is_not_in_the_card(tmp_path):
    pipe = Pipeline(build(CONFIG), data="/home/me/cats", training={"initialised from": "letters"})
    pipe.save_pretrained(tmp_path / "pipe")
    known = front(tmp_path / "pipe")
    assert known.license is known.datasets is known.base_model is known.eval_results is None
    text = (tmp_path / "pipe" / "README.md").read_text()
    assert "/home" not in text
    assert "samples.png)" not in text
    assert not (tmp_path / "pipe" / "samples.png").exists()


def test_tags_of_the_systems(tmp_path):
    relay = RelayPipeline(build(dataclasses.replace(TINY_ADM, resolution=16)))
    operator = Pipeline(
        build(TINY_DSNO),
        preconditioning=_kind("overtone.denoisers.preconditioning", "OperatorPreconditioning")(),
        sampler=_kind("overtone.samplers.operator", "OperatorSampler")(),
    )
    for pipe, tags in ((relay, {"RelayProcess"}), (operator, {"operator", "OperatorSampler"})):
        pipe.save_pretrained(tmp_path / pipe.network.config.kind)
        assert tags <= {*front(tmp_path / pipe.network.config.kind).tags}


def _kind(module, name):
    __import__(module)
    return getattr(sys.modules[module], name)


@pytest.mark.parametrize("name", ["Apache 2.0", "MIT", "a\nb: c", "x" * 65, "-"])
def test_a_licence_is_an_identifier(pipe, name):
    with pytest.raises(OvertoneError, match="these are lower case, like"):
        Pipeline(pipe.network, license=name)


def test_the_command_writes_licence_scores_and_samples_with_their_receipt(
    pipe, saved, tmp_path, capsys
):
    scores = report(pipe, tmp_path / "scores.json")
    out = tmp_path / "mine"
    main(["card", str(saved), "--license", "mit", "--scores", str(scores), "--out", str(out)])
    assert "hf upload YOU/NAME" in capsys.readouterr().err
    known = front(out)
    assert known.license == "mit"
    assert [r.metric_type for r in known.eval_results] == ["frechet_distance", "class_accuracy"]
    text = (out / "README.md").read_text()
    assert "| Fréchet distance | 0.0123 (95 %: 0.009 to 0.017) | 500 images, 1,500 real images" in (
        text
    )
    assert "70 evaluations per image, guidance scale 1.5" in text
    assert "| class accuracy | 99.4% |" in text
    main(["replay", str(out / "samples.png"), "--seed", "4", "--model", str(out)])
    assert "the very same image" in capsys.readouterr().out
    with Image.open(out / "samples.png") as grid:
        assert json.loads(grid.text["overtone-grid"])["columns"] % 3 == 0
    assert load_pipeline(out).made_with() == load_pipeline(saved).made_with()


def test_a_card_in_half_precision_is_of_the_rounded_weights(pipe, saved, tmp_path, capsys):
    scores, half = report(pipe, tmp_path / "scores.json"), ["--dtype", "float16"]
    asked = ["card", str(saved), "--license", "mit", *half]
    said = fails(capsys, *asked, "--scores", str(scores), "--out", str(tmp_path / "a"))
    assert "the report of other weights" in said
    main([*asked, "--out", str(tmp_path / "half")])
    rounded = load_pipeline(tmp_path / "half")
    scores = report(rounded, tmp_path / "scores.json")
    asked[1] = str(tmp_path / "half")
    main([*asked, "--scores", str(scores), "--out", str(tmp_path / "mine")])
    text = (tmp_path / "mine" / "README.md").read_text()
    assert f"| digest of the weights | {rounded.made_with()['weights']} |" in text
    files = [folder / "network" / "model.safetensors" for folder in (saved, tmp_path / "mine")]
    assert files[1].stat().st_size < 0.62 * files[0].stat().st_size
    main(["replay", str(tmp_path / "mine/samples.png"), "--model", str(tmp_path / "mine")])
    assert "the very same image" in capsys.readouterr().out


def test_reports_of_other_weights_and_of_nothing_are_refused(pipe, saved, tmp_path, capsys):
    def tried(**changes):
        file = report(pipe, tmp_path / "scores.json", **changes)
        return fails(
            capsys, "card", str(saved), "--scores", str(file), "--out", str(tmp_path / "out")
        )

    assert "the report of other weights" in tried(made_with={"weights": "0"})
    assert "is not a report" in tried(made_with=None)
    assert "is not a report" in tried(made_with={})
    file = tmp_path / "list.json"
    file.write_text("[]")
    asked = ["--scores", str(file), "--out", str(tmp_path / "out")]
    assert "list.json" in fails(capsys, "card", str(saved), *asked)
    assert not (tmp_path / "out").exists()


def test_odd_values_in_a_report_cost_their_row_and_nothing_else(pipe, saved, tmp_path):
    made = {"weights": pipe.made_with()["weights"], "guidance": 3, "evaluations": "many"}
    odd = report(
        pipe, tmp_path / "scores.json",
        images="x", real_images=None, intervals=[], made_with=made, class_accuracy="high",
    )  # fmt: skip
    main(["card", str(saved), "--scores", str(odd), "--out", str(tmp_path / "mine")])
    assert [r.metric_type for r in front(tmp_path / "mine").eval_results] == ["frechet_distance"]


def test_what_can_not_be_written_is_refused_first(saved, tmp_path, capsys):
    assert "is there already" in fails(capsys, "card", str(saved), "--out", str(saved))
    out = str(tmp_path / "mine")
    assert "1,024 images at most" in fails(
        capsys, "card", str(saved), "--seeds", "0-1024", "--out", out
    )
    assert "these are lower case" in fails(
        capsys, "card", str(saved), "--license", "A", "--out", out
    )
