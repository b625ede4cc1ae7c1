"""Images that are no squares: in data, networks, processes, pipelines and trainings."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import (
    TINY_ADM,
    TINY_DIFFIT,
    TINY_DSNO,
    TINY_IUNET,
    TINY_NCSN,
    TINY_SONG,
    TINY_TRANSFORMER,
    awake,
    tiny_vae,
)
from overtone import settings
from overtone.cli import app
from overtone.data.open import open_data
from overtone.data.rules import Reading
from overtone.errors import OvertoneError
from overtone.networks import load_network, temporalize
from overtone.networks.attention import RelativePositionBias, from_windows, to_windows
from overtone.networks.configs.network import NetworkConfig
from overtone.networks.diffit import positions
from overtone.networks.network import build, multiply_adds
from overtone.pipelines import Pipeline, load_pipeline
from overtone.processes import QuantileSchedule, RelayProcess
from overtone.samplers import Sampler
from overtone.sizes import by, divided, divides, resolution_of, scaled, shown, sides
from overtone.training.configs.denoising import ExpertSettings
from overtone.training.experts import train_and_merge
from overtone.training.loop import Trainer
from runs import QUICK, changed

SIZE = (24, 40)
SQUARES = {
    "DiffiT": TINY_DIFFIT,
    "DiffiT with a plain ViT": dataclasses.replace(
        TINY_DIFFIT, encoder="vit", decoder="aggregation"
    ),
    "ADM": TINY_ADM,
    "iU-Net": TINY_IUNET,
    "DDPM++": TINY_SONG,
    "NCSN++ with TMSA": dataclasses.replace(TINY_NCSN, attention_resolutions=(12,)),
    "DDPM++ with TMSA over all pixels": dataclasses.replace(
        TINY_SONG, attention="tmsa", window=None, heads=2, attention_resolutions=(12,)
    ),
    "DSNO": TINY_DSNO,
    "transformer": dataclasses.replace(TINY_TRANSFORMER, channels=1),
}


def rectangular(config, size=SIZE):
    return dataclasses.replace(config, resolution=size)


NETWORKS = {name: rectangular(config) for name, config in SQUARES.items()}


def called(network, x, labels=None):
    """The network's output, at two times where it wants several."""
    times = torch.tensor([0.3, -0.2])
    with torch.no_grad():
        return network.eval()(x, times[: len(x)] if x.ndim == 4 else times, labels)


def test_sizes():
    assert sides(8) == (8, 8)
    assert sides((2, 3)) == (2, 3)
    assert resolution_of(4, 4) == 4
    assert resolution_of(4, 6) == (4, 6)
    assert scaled((2, 3), 4) == (8, 12)
    assert divided((9, 12), 2) == (4, 6)
    assert divides((8, 12), 4)
    assert not divides((8, 12), 8)
    assert (shown(8), shown((8, 12)), by(8)) == ("8", "8 x 12", "8 x 8")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_makes_images_of_24_x_40(name, tmp_path):
    config = NETWORKS[name]
    network = awake(build(config))
    x, labels = torch.randn(2, 1, *SIZE), torch.tensor([0, 2])
    out = called(network, x, labels)
    assert out.shape[-2:] == SIZE
    assert torch.isfinite(out).all()
    if not config.makes_trajectories:
        network.check_size()
        assert multiply_adds(network) > 0
    # Every parameter is used.
    network.train()
    network(x, torch.tensor([0.3, -0.2]), labels).square().sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(".time." in n or "qkv" in n or "kv_time" in n for n in idle), idle
    network.save_pretrained(tmp_path / "network")
    again = load_network(tmp_path / "network")
    assert again.config == config
    assert json.loads((tmp_path / "network" / "config.json").read_text())["resolution"] == [24, 40]
    assert torch.equal(called(again, x, labels), out)


SAME_WEIGHTS = ["DiffiT", "ADM", "iU-Net", "DDPM++", "NCSN++ with TMSA", "DSNO"]


@pytest.mark.parametrize("name", SAME_WEIGHTS)
def test_where_no_weight_depends_on_the_size_a_square_network_agrees(name):
    """A network of squares takes rectangles too: with the same weights it says the same."""
    square, wide = build(dataclasses.replace(SQUARES[name], resolution=24)), build(NETWORKS[name])
    wide.load_state_dict(awake(square).state_dict())
    x, labels = torch.randn(2, 1, *SIZE), torch.tensor([0, 2])
    assert torch.equal(called(wide, x, labels), called(square, x, labels))


@pytest.mark.parametrize("name", SQUARES)
def test_a_pair_of_one_number_is_a_square(name):
    config = dataclasses.replace(SQUARES[name], resolution=(24, 24))
    assert config.resolution == 24
    assert config == dataclasses.replace(SQUARES[name], resolution=24)
    read = settings.load(NetworkConfig, settings.dump(NETWORKS[name]), "here")
    assert read == NETWORKS[name]


@pytest.mark.parametrize(
    "size", [(24, 0), (24, -8), (24, 8, 8), (24.0, 40), "24x40", (24, 200_000)]
)
def test_sizes_that_can_not_be(size):
    with pytest.raises((OvertoneError, ValueError), match="resolution must be"):
        dataclasses.replace(TINY_ADM, resolution=size)


def test_sides_that_do_not_divide_are_named():
    with pytest.raises(OvertoneError, match="resolution 24 x 39 can't be halved 1 times"):
        build(rectangular(TINY_ADM, (24, 39)))
    with pytest.raises(
        OvertoneError, match="level 0 is 24 x 38 pixels wide, which does not divide"
    ):
        build(rectangular(TINY_DIFFIT, (24, 38)))
    with pytest.raises(ValueError, match="resolution 24 x 39 does not divide into patches of 2"):
        rectangular(TINY_TRANSFORMER, (24, 39))


def test_the_bias_of_a_rectangle_by_its_formula():
    torch.manual_seed(0)
    height, width, heads = 3, 5, 2
    bias = RelativePositionBias((height, width), heads)
    found = bias()
    tokens = list(itertools.product(range(height), range(width)))
    for q, (y, x) in enumerate(tokens):
        for k, (v, u) in enumerate(tokens):
            row = (y - v + height - 1) * (2 * width - 1) + x - u + width - 1
            assert torch.equal(found[..., q, k].flatten(), bias.table[row])
    # A finer grid of the same image has, where the two meet, the same bias.
    fine = bias(grid=(5, 9))
    assert fine.shape[-2:] == (45, 45)
    square = RelativePositionBias(4, heads)
    assert torch.equal(square(), square(grid=(4, 4)))


def test_positions_of_a_rectangle_are_those_of_rows_and_columns():
    """Of a grid of 3 x 5 tokens they are the corner of a larger square's."""
    whole = positions(16, (5, 5), 5).view(5, 5, 16)
    assert torch.allclose(positions(16, (3, 5), (3, 5)).view(3, 5, 16), whole[:3], atol=1e-6)


def test_windows_that_are_no_squares():
    x = torch.arange(2 * 3 * 6 * 8, dtype=torch.float32).view(2, 3, 6, 8)
    windows = to_windows(x, (3, 4))
    assert windows.shape == (2, 4, 12, 3)
    assert torch.equal(windows[0, 1].T.reshape(3, 3, 4), x[0, :, :3, 4:])
    assert torch.equal(from_windows(windows, (3, 4), 6), x)


def test_an_operator_of_rectangles():
    for name in ("DiffiT", "ADM", "transformer"):
        network = temporalize(awake(build(NETWORKS[name])), modes=2)
        made = called(network, torch.randn(2, 1, *SIZE), torch.tensor([0, 1]))
        assert made.shape == (2, 2, 1, *SIZE)


def pictures(folder, count=40, size=(50, 30), mode="L"):
    """Pictures (width, height) of noise in two classes."""
    rng = np.random.default_rng(0)
    planes = () if mode == "L" else (3,)
    for number in range(count):
        place = folder / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (size[1], size[0], *planes), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:03d}.png")
    return folder


def ramp(width, height):
    """A picture whose grey is its column."""
    return Image.fromarray(np.tile(np.arange(width, dtype=np.uint8), (height, 1)))


def test_what_each_crop_keeps(tmp_path):
    (tmp_path / "it").mkdir()
    ramp(90, 30).save(tmp_path / "it" / "a.png")
    data = open_data(str(tmp_path / "it"), 30, 1)
    assert data.fetch([0])[0][0, 0, 0].tolist() == list(range(30, 60))
    data = open_data(str(tmp_path / "it"), (30, 60), 1, reading=Reading(crop="fit"))
    assert data.resolution == (30, 60)
    assert data.fetch([0])[0][0, 0, 0].tolist() == list(range(15, 75))
    whole = open_data(str(tmp_path / "it"), (30, 90), 1, reading=Reading(crop="none"))
    assert whole.fetch([0])[0][0, 0, 0].tolist() == list(range(90))
    small = open_data(str(tmp_path / "it"), (10, 30), 1, reading=Reading(crop="none"))
    assert small.fetch([0])[0][0, 0, 5].tolist() == pytest.approx(
        [3 * k + 1 for k in range(30)], abs=1
    )
    assert {data.resize_rule, whole.resize_rule} == {
        "centre crop to 30:60, Lanczos", "no crop, Lanczos",
    }  # fmt: skip
    with pytest.raises(OvertoneError, match="does not have the proportions of 60 x 30: --crop fit"):
        open_data(str(tmp_path / "it"), (30, 60), 1, reading=Reading(crop="none"))
    plain = open_data(str(tmp_path / "it"), (30, 60), 1)
    assert torch.equal(plain.fetch([0])[0], data.fetch([0])[0])
    with pytest.raises(OvertoneError, match="a square does not fill images of 30 x 60 px"):
        open_data(str(tmp_path / "it"), (30, 60), 1, reading=Reading(crop="square"))
    with pytest.raises(OvertoneError, match="is 90 x 30, smaller than the resolution 40 x 60"):
        open_data(str(tmp_path / "it"), (40, 60), 1, reading=Reading(crop="fit"))


def test_glyphs_and_arrays_of_rectangles():
    glyphs = open_data("builtin:glyphs", SIZE, 3)
    square = open_data("builtin:glyphs", 24, 3)
    images = glyphs.fetch([0, 1, 5])[0]
    assert images.shape == (3, 3, *SIZE)
    assert torch.equal(images[:, :, :, 8:32], square.fetch([0, 1, 5])[0])


def recipe_of(network, folder, **changes):
    return changed(QUICK, network=network, data=str(folder), crop="fit", **changes)


@pytest.mark.parametrize("name", ["DiffiT", "ADM", "iU-Net", "DDPM++"])
def test_a_training_on_rectangles(name, tmp_path):
    network = dataclasses.replace(NETWORKS[name], num_classes=0)
    recipe = recipe_of(network, pictures(tmp_path / "data"))
    Trainer.of(recipe, show=False).run(tmp_path / "run")
    pipe = load_pipeline(tmp_path / "run")
    images = pipe(seeds=range(3), class_labels="a")
    assert {image.size for image in images} == {(40, 24)}
    assert pipe.made_with()["network"]["resolution"] == [24, 40]
    with Image.open(next((tmp_path / "run" / "grids").iterdir())) as grid:
        header = json.loads(grid.text["overtone-grid"])["header"]
        assert grid.size == (2 * 41 - 1, header + 8 * 25 - 1)


def test_experts_and_a_relay_of_rectangles(tmp_path):
    network = dataclasses.replace(NETWORKS["ADM"], num_classes=0)
    folder = pictures(tmp_path / "data")
    experts = recipe_of(network, folder, experts=ExpertSettings((0.5,), (0.5, 0.5)))
    train_and_merge(changed(experts, total_images=32), tmp_path / "experts", show=False)
    assert load_pipeline(tmp_path / "experts")(seeds=[1], class_labels="b")[0].size == (40, 24)
    first = recipe_of(rectangular(network, (6, 10)), folder)
    Trainer.of(first, show=False).run(tmp_path / "first")
    schedule = QuantileSchedule(prob_length=0.93)
    second = dataclasses.replace(
        recipe_of(network, folder),
        schedule=schedule,
        process=RelayProcess(schedule=schedule),
        first=str(tmp_path / "first"),
        sampler=Sampler(num_steps=2, estimate="single", sigma_max=schedule.sigma_at(1.0)),
    )
    Trainer.of(second, show=False).run(tmp_path / "second")
    pipe = load_pipeline(tmp_path / "second")
    assert pipe.first.resolution == (6, 10)
    assert pipe(seeds=[1, 2], class_labels="a")[1].size == (40, 24)
    assert pipe.upscale([image.resize((10, 6)) for image in pipe(seeds=[1], class_labels="a")],
                        class_labels="a")[0].size == (40, 24)  # fmt: skip
    with pytest.raises(OvertoneError, match="24 x 40 px do not divide into patches of 5 px"):
        Pipeline(build(network), process=RelayProcess(patch=5))


def test_latents_of_rectangles(tmp_path):
    (tmp_path / "vae").mkdir()
    tiny_vae(channels=1).write_into(tmp_path / "vae")
    network = dataclasses.replace(TINY_TRANSFORMER, resolution=(12, 20), learned_variance=False,
                                  num_classes=0)  # fmt: skip
    recipe = recipe_of(network, pictures(tmp_path / "data"), vae=str(tmp_path / "vae"))
    Trainer.of(recipe, show=False).run(tmp_path / "run")
    pipe = load_pipeline(tmp_path / "run")
    assert pipe.resolution == (24, 40)
    assert pipe(seeds=[1], class_labels="a")[0].size == (40, 24)


@pytest.mark.slow
def test_rectangles_on_the_command_line(tmp_path, monkeypatch, capsys):
    """A training, samples, an edited picture, an evaluation and a replay, by their commands."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "data")
    recipe = recipe_of(dataclasses.replace(NETWORKS["ADM"], num_classes=0, resolution=8), "data")
    settings_file = tmp_path / "mine.json"
    settings_file.write_text(json.dumps(settings.dump(recipe)))
    app.main(["train", "mine.json", "--network.resolution", "24", "40", "--out", "run"])
    app.main(["sample", "run", "--seeds", "0-3", "--out", "it.png"])
    with Image.open("it.png") as grid:
        assert (grid.size[1] - json.loads(grid.text["overtone-grid"])["header"]) % 25 == 24
    app.main(["replay", "it.png", "--seed", "3", "--model", "run"])
    assert "the very same image" in capsys.readouterr().out
    app.main(["evaluate", "run", "--seeds", "0-9", "--extractor", "random", "--out", "report.json"])
    app.main(["edit", "run", "data/a/000.png", "--fit", "--classes", "a", "--out", "edited.png"])
    with Image.open("edited.png") as edited:
        assert edited.size == (40, 24)
    app.main(["distill", "collect", "dsno-digits", "--teacher", "run", "--count", "8", "--held-out",
              "4", "--guidance-scale", "1", "--steps", "4", "--out", "trajectories"])  # fmt: skip
    app.main(["distill", "train", "dsno-digits", "--teacher", "run", "--count", "8", "--held-out",
              "4", "--guidance-scale", "1", "--steps", "4", "--data", "trajectories", "--out",
              "student", "--total-images", "8", "--batch-size", "4"])  # fmt: skip
    assert load_pipeline("student")(seeds=[0], class_labels="a")[0].size == (40, 24)
    capsys.readouterr()
