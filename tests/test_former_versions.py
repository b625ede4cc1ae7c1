"""What version 0.1.0 wrote opens, and means what it meant (`tests/data/0.1.0/make.py`)."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from overtone import former, load_pipeline, settings, storage
from overtone.cli.app import main
from overtone.data.latents import LatentData
from overtone.data.trajectories import TrajectoryData
from overtone.errors import OvertoneError
from overtone.runs import find_checkpoint
from overtone.training import Recipe, find_recipe

THERE = Path(__file__).parent / "data" / "0.1.0"
MODELS = sorted(folder.name for folder in (THERE / "models").iterdir())
IMAGES = load_file(THERE / "images.safetensors")
LOW = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)


def opened(name):
    pipe = load_pipeline(THERE / "models" / name)
    pipe.precision = "fp32"
    if pipe.start.pipeline is not None:
        pipe.start.pipeline.precision = "fp32"
    return pipe


def difference(images, expected):
    """In grey levels; another processor's products round differently."""
    return int((images.int() - expected.int()).abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_models_make_the_same_images(name, tmp_path):
    pipe = opened(name)
    seeds, labels = range(4), None
    if name == "second":  # which was saved without its first stage
        pipe.first, seeds, labels = LOW, [5], [1]
    assert difference(next(pipe.stream(seeds, labels)).images, IMAGES[name]) <= 1
    if f"{name} guided" in IMAGES:
        guided = next(pipe.stream(seeds, [2, 1, 0, 2], 2.0)).images
        assert difference(guided, IMAGES[f"{name} guided"]) <= 1
    assert pipe.class_names == ("cat", "dog", "emu")
    # Saved by this version, it is the same model again.
    pipe.save_pretrained(tmp_path / "again")
    again = load_pipeline(tmp_path / "again")
    assert settings.dump(again.preconditioning) == settings.dump(pipe.preconditioning)
    assert (again.process, again.sampler, again.guidance) == (
        pipe.process,
        pipe.sampler,
        pipe.guidance,
    )
    assert "pipeline" not in json.loads((tmp_path / "again" / "pipeline.json").read_text())


CHANGED = {
    "relay-glyphs-16": ("guidance", "training", "reporting"),
    "relay-glyphs": ("schedule", "process", "sampler"),
}
"""The parts of recipes that are others today, since better ones were measured."""


def test_recipes_are_those_of_today():
    """No other number of theirs has changed. What they say of themselves may be corrected. Whether
    a network is compiled, and how many processes load images, is left to the machine."""
    for name, data in json.loads((THERE / "recipes.json").read_text()).items():
        there = settings.load(Recipe, former.recipe(data), name)
        today = find_recipe(name)
        assert there.training.compile is False
        assert today.training.compile is None
        assert there.reporting.workers in (0, 4)
        assert today.reporting.workers is None
        training = dataclasses.replace(there.training, compile=None)
        reporting = dataclasses.replace(there.reporting, workers=None)
        own = {"about": today.about, "training": training, "reporting": reporting}
        for part in CHANGED.get(name, ()):
            assert own.get(part, getattr(there, part)) != getattr(today, part), (name, part)
            own[part] = getattr(today, part)
        assert dataclasses.replace(there, **own) == today, name


@pytest.fixture
def place(tmp_path, monkeypatch):
    shutil.copytree(THERE, tmp_path / "0.1.0")
    monkeypatch.chdir(tmp_path / "0.1.0")
    return tmp_path / "0.1.0"


RUNS = ("denoising", "vp", "hybrid", "relay", "vae", "latent", "operator")


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_runs_go_on(name, place):
    """To where version 0.1.0 would have taken them."""
    command = ["train"] if name != "operator" else ["distill", "train"]
    data = ["--data", "trajectories"] if name == "operator" else []
    run = place / "runs" / name
    main([*command, str(run / "recipe.json"), *data, "--out", str(run), "--total-images", "128"])
    expected = load_file(THERE / "longer.safetensors")
    weights = storage.load_tensors(find_checkpoint(run) / "training" / "weights.safetensors")
    assert find_checkpoint(run).name == "000000128"
    for key, tensor in weights.items():
        wanted = expected[f"{name} {key}"]
        # Adam divides by the gradient's own size: what rounds differently differs by steps of it.
        assert float((tensor - wanted).abs().max()) < 0.1 * 0.002, key


def test_a_run_with_other_settings_is_still_refused(place, capsys):
    recipe = place / "runs" / "denoising" / "recipe.json"
    with pytest.raises(SystemExit):
        main(["train", str(recipe), "--out", "runs/denoising", "--preconditioning.sigma-data", "1"])
    message = capsys.readouterr().err
    assert "made with other settings (preconditioning.sigma_data: 0.5 -> 1.0)" in message


def test_a_run_of_experts_goes_on_and_is_merged_again(place):
    run = place / "runs" / "experts"
    assert load_pipeline(run / "merged").training["images seen"] == 128
    main(["train", str(run / "recipe.json"), "--out", str(run), "--total-images", "96"])
    assert load_pipeline(run / "merged").training["images seen"] == 192


def test_latents_and_trajectories_open(place):
    assert len(LatentData(place / "latents")) == 16
    data = TrajectoryData(place / "trajectories")
    states, labels = data.fetch([0, 23])
    assert states.shape == (2, 4, 1, 8, 8)
    assert labels.tolist() == [1_000_000 % 3, 1_000_023 % 3]


def test_more_trajectories_are_collected_beside_the_old_ones(place):
    before = (place / "trajectories" / "00000.safetensors").read_bytes()
    recipe = str(place / "runs" / "operator" / "recipe.json")
    main(["distill", "collect", recipe, "--out", "trajectories", "--count", "32"])
    data = TrajectoryData(place / "trajectories")
    assert len(data) == 32
    assert len(before) < (place / "trajectories" / "00000.safetensors").stat().st_size


def test_trajectories_of_another_teacher_are_still_refused(place):
    recipe = str(place / "runs" / "operator" / "recipe.json")
    with pytest.raises(SystemExit):
        main(["distill", "collect", recipe, "--out", "trajectories", "--guidance-scale", "3"])


def test_damaged_files_of_former_versions_are_named(place):
    file = place / "models" / "vp" / "pipeline.json"
    data = json.loads(file.read_text())
    for change, message in (
        ({"denoiser": 3}, "names its 'kind'"),
        ({"denoiser": {"kind": "VPDenoiser", "schedule": []}}, "'preconditioning.schedule'"),
        ({"denoiser": {"kind": "SolutionOperator", "teacher": "x"}}, "preconditioning.times"),
        ({"process": "RelayProcess"}, "'process'"),
        ({"pipeline": 7}, "unknown pipeline '7'"),
    ):
        file.write_text(json.dumps(data | change))
        with pytest.raises(OvertoneError, match=message):
            load_pipeline(place / "models" / "vp")
