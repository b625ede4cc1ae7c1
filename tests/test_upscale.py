"""Pictures larger than a relay's images: tiles that cover them, and no seams where they meet."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers import TINY_ADM, awake
from overtone.cli.app import main
from overtone.denoisers import Denoiser, EDMDenoiser, Estimate
from overtone.denoisers.tiled import TiledDenoiser, starts_of, window_of
from overtone.errors import OvertoneError
from overtone.networks import ADMUNet
from overtone.pipelines import Pipeline, RelayPipeline, load_pipeline
from overtone.pipelines.upscale import check_size, upscale_tiled
from overtone.processes import QuantileSchedule, RelayProcess
from overtone.samplers import Sampler


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 11), st.integers(1, 4))
def test_tiles_cover_a_length(extra, tile, overlap, unit):
    tile, overlap, length = tile * unit, min(overlap, tile - 1) * unit, (tile + extra) * unit
    starts = starts_of(length, tile, overlap, unit)
    assert starts[0] == 0
    assert starts[-1] == length - tile
    assert all(start % unit == 0 for start in starts)
    gaps = np.diff(starts)
    assert (gaps > 0).all()
    assert (gaps <= tile - overlap).all()  # each overlaps the next by as much, or more
    assert len(starts) == -(-(length - tile) // (tile - overlap)) + 1


def test_tiles_that_can_not_be():
    for length, overlap in ((7, 2), (20, 8), (20, -1)):
        with pytest.raises(ValueError, match=r"less than a tile|overlap by 0 to"):
            starts_of(length, 8, overlap)


def test_windows_are_one_inside_and_positive_at_the_edge():
    window = window_of(10, 3)
    assert window.tolist() == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert window_of(4, 0).tolist() == [1, 1, 1, 1]


class Pointwise(Denoiser):
    """c x: what is known of white noise, pixel by pixel."""

    num_classes = 3

    def forward(self, x, sigma, class_labels=None):
        scale = 1 / (1 + torch.as_tensor(sigma) ** 2)
        shift = 0 if class_labels is None else class_labels.view(-1, 1, 1, 1) * 0.1
        return Estimate(x * (scale.view(-1, 1, 1, 1) if scale.dim() else scale) + shift)


@pytest.mark.parametrize("sigma", [0.7, torch.tensor([0.3, 2.0])])
@pytest.mark.parametrize("at_a_time", [1, 5, 64])
def test_a_denoiser_that_sees_one_pixel_does_not_notice_tiles(sigma, at_a_time):
    x, labels = torch.randn(2, 3, 20, 29), torch.tensor([0, 2])
    tiled = TiledDenoiser(Pointwise(), (8, 8), 4, at_a_time=at_a_time)
    whole = Pointwise()(x, sigma, labels).x_0
    assert torch.allclose(tiled(x, sigma, labels).x_0, whole, atol=1e-6)
    assert torch.allclose(tiled(x, sigma).x_0, Pointwise()(x, sigma).x_0, atol=1e-6)


def relay(classes=0, channels=1, size=16):
    torch.manual_seed(0)
    config = dataclasses.replace(TINY_ADM, resolution=size, num_classes=classes, channels=channels)
    schedule = QuantileSchedule(prob_length=0.93)
    return RelayPipeline(
        awake(ADMUNet(config)),
        Sampler(num_steps=4, sigma_max=0.9, sigma_min=0.01, estimate="two_step"),
        process=RelayProcess(schedule=schedule),
        precision="fp32",
    )


def test_an_image_of_the_models_size_is_that_of_a_single_tile():
    pipe = relay()
    low = torch.rand(1, 1, 4, 4) * 2 - 1
    one = upscale_tiled(pipe, low, seed=3)
    (other,) = pipe.upscale(low, seeds=[3])
    assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


@pytest.mark.parametrize("size", [(30, 20), (4, 9), (3, 2), (16, 4)])
def test_pictures_of_any_size(size):
    """(width, height): larger than a tile in one way or both, and smaller."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, size[::-1], np.uint8))
    made = upscale_tiled(relay(), picture)
    assert made.size == (4 * size[0], 4 * size[1])


def steps_across(image, places):
    """Mean differences of neighbouring columns at some places, and elsewhere."""
    pixels = torch.as_tensor(image).double()
    across = (pixels[..., 1:] - pixels[..., :-1]).abs().mean(dim=tuple(range(pixels.dim() - 1)))
    there = torch.zeros(len(across), dtype=torch.bool)
    there[[place - 1 for place in places]] = True
    return float(across[there].mean()), float(across[~there].mean())


def test_where_tiles_meet_there_is_no_seam():
    """Of a network that sees its tile's edges the estimates of tiles beside each other jump where
    they meet. Overlapping tiles do not: the difference of neighbours at the edges of tiles is that
    of neighbours elsewhere, within 10 %, on 16 images."""
    torch.manual_seed(1)
    config = dataclasses.replace(TINY_ADM, resolution=16, num_classes=0)
    denoiser = EDMDenoiser(awake(awake(ADMUNet(config)))).eval()
    smooth = torch.nn.functional.interpolate(torch.randn(16, 1, 6, 8), scale_factor=8,
                                             mode="bicubic")  # fmt: skip
    x = smooth + 0.05 * torch.randn(smooth.shape)
    with torch.no_grad():
        beside = TiledDenoiser(denoiser, (16, 16), 0)(x, 0.5).x_0
        over = TiledDenoiser(denoiser, (16, 16), 8)(x, 0.5).x_0
    edge, inside = steps_across(beside, [16, 32, 48])
    assert edge > 1.2 * inside
    places = sorted({e for s in starts_of(64, 16, 8) for e in (s, s + 16)} - {0, 64})
    edge, inside = steps_across(over, places)
    assert edge < 1.1 * inside


def test_all_tiles_share_their_noise():
    """Of equal pictures and noise that repeats, tiles a period apart are equal: nothing is drawn
    for each tile."""
    pipe = relay()
    flat = torch.zeros(1, 1, 12, 20)
    one, other = (np.asarray(upscale_tiled(pipe, flat, seed=5, at_a_time=n)) for n in (1, 16))
    assert np.abs(one.astype(int) - other.astype(int)).max() <= 1
    assert not np.array_equal(one, np.asarray(upscale_tiled(pipe, flat, seed=6)))


def test_what_can_not_be_upscaled_is_refused():
    noise = Pipeline(ADMUNet(TINY_ADM))
    with pytest.raises(OvertoneError, match="begins with noise: a relay's second stage upscales"):
        upscale_tiled(noise, torch.zeros(1, 1, 4, 4))
    untold = relay(classes=3)
    untold.denoiser.has_null_class = False
    with pytest.raises(OvertoneError, match="has 3 classes, and none that stands for no class"):
        upscale_tiled(untold, torch.zeros(1, 1, 4, 4))
    with pytest.raises(OvertoneError, match="3 classes, and guidance needs one: say what"):
        upscale_tiled(relay(classes=3), torch.zeros(1, 1, 4, 4), guidance_scale=2.0)
    with pytest.raises(OvertoneError, match="overlap by 0 to 3, not by 4: the model"):
        upscale_tiled(relay(), torch.zeros(1, 1, 8, 8), overlap=4)
    with pytest.raises(OvertoneError, match=r"becomes one of 12,000 x 8,000, which is more than"):
        check_size(relay(), 3000, 2000)


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pipe = relay(classes=2, channels=3)
    pipe.class_names = ("cat", "dog")
    pipe.save_pretrained("relay")
    rng = np.random.default_rng(0)
    for name, size in (("a", (30, 20)), ("b", (9, 5))):
        pixels = rng.integers(0, 256, (*size[::-1], 3), np.uint8)
        (tmp_path / "mine").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(f"mine/{name}.jpg")
    Image.fromarray(rng.integers(0, 256, (5, 6, 4), np.uint8), "RGBA").save("clear.png")
    main(["upscale", "mine", "--model", "relay", "--classes", "dog", "--out", "large"])
    for name, size in (("a", (120, 80)), ("b", (36, 20))):
        with Image.open(tmp_path / "large" / f"{name}.png") as large:
            assert large.size == size
    assert len(list((tmp_path / "large").iterdir())) == 2
    main(["upscale", "clear.png", "mine/b.jpg", "--model", "relay", "--classes", "0", "cat",
          "--background", "black", "--sampler.num-steps", "2", "--overlap", "1"])  # fmt: skip
    assert capsys.readouterr().err.count("clear.png: transparency laid on black") == 1
    # What a former command made is no picture to enlarge, and a damaged one is told of first.
    main(["upscale", "mine", "--model", "relay", "--classes", "dog", "--out", "mine/large"])
    main(["upscale", "mine", "--model", "relay", "--classes", "dog", "--out", "mine/large"])
    assert sorted(f.name for f in (tmp_path / "mine").rglob("*.png")) == ["a.png", "b.png"]
    shutil.rmtree("mine/large")
    Path("bad").mkdir()
    shutil.copy("clear.png", "bad/a.png")
    Path("bad/b.png").write_bytes(b"nothing")
    with pytest.raises(SystemExit):
        main(["upscale", "bad", "--model", "relay", "--classes", "0", "--out", "never"])
    assert "bad/b.png can't be read" in capsys.readouterr().err.replace("\n", " ")
    for useless in (["--first", "bad"], ["--first-stage.steps", "2"]):
        with pytest.raises(SystemExit):
            main(["upscale", "clear.png", "--model", "relay", *useless, "--out", "never"])
        assert "the pictures take the place of the first stage" in capsys.readouterr().err
    assert not Path("never").exists()
    assert (tmp_path / "upscaled" / "clear.png").exists()
    for arguments, message in (
        ([], "name the pictures"),
        (["nowhere.png"], "nowhere.png does not exist"),
        (["mine", "--guidance-scale", "2"], "guidance needs one: say what the picture shows"),
        (["mine", "--classes", "0", "1", "0"], "--classes names 3 classes for 2 pictures"),
        (["mine", "--classes", "0", "--out", "a.png"], "is one file, and there are 2 pictures"),
        (["mine/a.jpg", "--classes", "0", "--out", "a.gif"], "a .png file or a directory"),
        (["clear.png", "--classes", "0", "--out", "."], "clear.png is one of the pictures"),
        (["mine/a.jpg", "--classes", "0", "--overlap", "9"], "tiles of 4 overlap by 0 to 3"),
        (["mine/a.jpg", "--classes", "lion"], "lion"),
        (["relay/README.md", "--classes", "0"], "README.md can't be read"),
    ):
        with pytest.raises(SystemExit):
            main(["upscale", *arguments, "--model", "relay"])
        assert message in capsys.readouterr().err.replace("\n", " "), arguments


def test_pictures_are_of_the_class_of_their_folder_or_of_none(tmp_path, monkeypatch, capsys):
    """And keep their places below the folder that is named, where two may have one name."""
    monkeypatch.chdir(tmp_path)
    pipe = relay(classes=2, channels=3)
    pipe.class_names = ("cat", "dog")
    pipe.save_pretrained("relay")

    def differ(one, other):
        """The largest difference in grey levels: matrix products round as they like."""
        return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 5, 3), np.uint8)
    for name in ("cat/1", "dog/1", "other/2"):
        Path(f"mine/{name}.png").parent.mkdir(parents=True)
        Image.fromarray(pixels).save(f"mine/{name}.png")
    main(["upscale", "mine", "--model", "relay", "--out", "large"])
    pipe = load_pipeline("relay")
    assert "2 pictures of the class of its folder's name, 1 of no class" in capsys.readouterr().err
    made = {}
    for name in ("cat/1", "dog/1", "other/2"):
        with Image.open(f"large/{name}.png") as picture:
            made[name] = np.asarray(picture)
    for name, label in (("cat/1", 0), ("dog/1", 1)):
        with Image.fromarray(pixels) as picture:
            assert differ(made[name], upscale_tiled(pipe, picture, label)) <= 1
    assert differ(made["cat/1"], made["dog/1"]) > 20
    assert differ(made["cat/1"], made["other/2"]) > 20
    # Of no class: the estimate that the network gives under the label behind the last.
    low = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    asked = []
    own = pipe.denoiser.forward

    def watched(x, sigma, labels):
        asked.append(labels.tolist())
        return own(x, sigma, labels)

    monkeypatch.setattr(pipe.denoiser, "forward", watched)
    assert differ(made["other/2"], upscale_tiled(pipe, low)) <= 1
    assert {label for labels in asked for label in labels} == {0, 2}
    monkeypatch.setattr(pipe.denoiser, "forward", lambda x, s, y: own(x, s, torch.full_like(y, 2)))
    assert differ(made["other/2"], upscale_tiled(pipe, low, 0)) <= 1
