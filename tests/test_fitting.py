"""Recipes for one's own images: what is seen in them, what follows, what contradicts them."""

import dataclasses
import json
import re
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

import overtone
from overtone.cli import app
from overtone.data.converting import has_colours
from overtone.data.heldout import Subset
from overtone.data.open import open_data
from overtone.data.own import own_data
from overtone.data.rules import Reading
from overtone.data.survey import survey, survey_given
from overtone.errors import OvertoneError
from overtone.networks.network import build_empty
from overtone.pipelines import Pipeline, load_pipeline
from overtone.runs import read_log
from overtone.samplers import Sampler
from overtone.sizes import divided
from overtone.training.fitting import Asked, fit, measured
from overtone.training.material import Given
from overtone.training.recipes import FITTED
from overtone.training.recipes import images as table
from overtone.training.recipes.images import Facts, levels_of, relay_images
from overtone.training.recipes.images import images as images_recipe


def write(folder, count=40, size=(40, 36), mode="RGB", classes=2, seed=0):
    """Pictures (width, height) of smooth noise: small ones, made larger."""
    rng = np.random.default_rng(seed)
    bands = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    for number in range(count):
        place = folder / f"class-{number % classes}" if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (6, 6, bands), dtype=np.uint8)
        image = Image.fromarray(pixels[..., 0] if bands == 1 else pixels, mode)
        image.resize(size, Image.Resampling.BICUBIC).save(place / f"{number:03d}.png")
    return folder


CUT = {"total-images": 64, "batch-size": 16, "checkpoint-images": 64, "report-images": 32}
CUT |= {"held-out-images": 16, "sampler.num-steps": 2}
QUICK = [word for name, value in CUT.items() for word in (f"--{name}", str(value))]


def test_what_is_seen_in_a_folder(tmp_path):
    folder = write(tmp_path / "it", 30, mode="RGBA", classes=3)
    write(folder / "class-0", 20, size=(20, 90), classes=0, seed=1)
    found = survey(str(folder))
    assert found.count == 30 + 20 - 7  # some files of the second call have the names of the first
    assert set(found.sizes) == {(40, 36), (20, 90)}
    assert found.smallest == 20
    assert found.channels == 3
    assert 0 < found.transparent < found.decoded
    assert sum(found.classes.values()) == 43
    told = "\n".join(found.told("black", grey=False))
    assert "sizes: 20 x 90 to 40 x 36 px" in told
    assert "are laid on black (--background takes another colour)" in told


def test_colours_are_seen_whatever_the_mode():
    grey = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    assert not has_colours(Image.fromarray(grey))
    assert not has_colours(Image.fromarray(grey).convert("RGB"))
    assert not has_colours(Image.fromarray(grey).convert("RGBA"))
    red = Image.fromarray(grey).convert("RGB")
    red.paste((200, 30, 30), (0, 0, 8, 8))
    assert has_colours(red)
    assert has_colours(red.convert("P"))
    assert has_colours(red.convert("CMYK"))


def test_classes_of_very_different_sizes_are_told(tmp_path):
    folder = write(tmp_path / "it", 40, classes=0)
    for number, file in enumerate(sorted(folder.iterdir())):
        place = folder / ("rare" if number < 2 else "frequent")
        place.mkdir(exist_ok=True)
        file.rename(place / file.name)
    told = "\n".join(survey(str(folder)).told("white", grey=False))
    assert "the smallest has 2 images, the largest 38" in told


def test_mean_and_deviation_are_those_of_the_values():
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    mean, deviation = measured(own_data(images, 8, 3))
    values = torch.from_numpy(images).double() / 127.5 - 1
    assert mean == pytest.approx(float(values.mean()), abs=1e-6)
    assert deviation == pytest.approx(float(values.std(correction=0)), abs=1e-6)
    with pytest.raises(OvertoneError, match="are all alike"):
        measured(own_data(np.full((5, 8, 8), 7, np.uint8), 8, 1))


@pytest.mark.parametrize(
    ("resolution", "levels"),
    [(16, [16, 8]), (32, [32, 16, 8]), (24, [24, 12, 6]), ((24, 40), [24, 12, 6]),
     (256, [256, 128, 64, 32, 16, 8]), ((48, 72), [48, 24, 12, 6]), (20, [20, 10]), (17, [17])],
)  # fmt: skip
def test_levels_halve_while_both_sides_do(resolution, levels):
    assert levels_of(resolution) == levels


@pytest.mark.parametrize("gpu", [False, True])
def test_a_size_that_no_unet_halves_is_refused_with_one_near_it(gpu):
    """A square of 16 to 256 px has a network that can be built, or another size is named."""
    refused = []
    for side in (16, 17, 33, 45, 46, 47, 50, 66, 90, 92, 97, 98, 100, 101, 104, 180, 200, 251, 256):
        facts = Facts(resolution=side, images=5_000, gpu=gpu)
        try:
            build_empty(table.images(facts).network.with_classes(0)).check_size()
        except OvertoneError as error:
            refused.append(side)
            near = int(re.search(r"--resolution (\d+) for example", str(error)).group(1))
            build_empty(
                table.images(dataclasses.replace(facts, resolution=near)).network
            ).check_size()
    assert {47, 97, 98, 101, 251} <= {*refused}
    assert not any(side % 8 == 0 or side < 46 for side in refused)
    with pytest.raises(OvertoneError, match="--resolution 96 104 for example"):
        table.images(Facts(resolution=(97, 103)))


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(
    "resolution", [16, 20, 24, 32, 48, 64, 96, 128, 200, 256, (24, 40), (64, 48)]
)
def test_the_table_builds_networks_at_every_resolution(resolution, gpu):
    sides = resolution if isinstance(resolution, tuple) else (resolution, resolution)
    facts = Facts(resolution=resolution, channels=1, images=5_000, num_classes=3, gpu=gpu,
                  first_resolution=divided(resolution, 4))  # fmt: skip
    for name in FITTED:
        recipe = getattr(table, name.replace("-", "_"))(facts)
        if recipe.command != "train" or (name == "latent-images" and sides[0] % 8):
            continue
        build_empty(recipe.network.with_classes(3)).check_size()
        assert 20_000 / 4 <= recipe.training.total_images <= 400 * 5_000
        assert recipe.class_conditional
    assert relay_images(facts).process.upscale == 4


def test_the_length_follows_the_number_of_images():
    lengths = [images_recipe(Facts(images=n)).training.total_images for n in (10, 500, 5_000, None)]
    assert lengths == [20_000, 200_000, 600_000, 600_000]
    assert images_recipe(Facts(sigma_data=0.31)).preconditioning.sigma_data == 0.31


def test_settings_follow_from_the_images(tmp_path):
    colour = fit("images", Asked(str(write(tmp_path / "colour"))), show=False)
    recipe = colour.recipe
    assert (recipe.network.resolution, recipe.network.channels) == (32, 3)
    assert recipe.class_conditional
    assert recipe.preconditioning.sigma_data == colour.facts.sigma_data
    grey = fit("images", Asked(str(write(tmp_path / "grey", mode="L", classes=0))), show=False)
    assert grey.recipe.network.channels == 1
    assert not grey.recipe.class_conditional
    stored = tmp_path / "stored"  # grey pictures in files of colours
    write(stored, mode="L", classes=0)
    for file in stored.iterdir():
        Image.open(file).convert("RGB").save(file)
    assert fit("images", Asked(str(stored)), show=False).recipe.network.channels == 1
    wide = Asked(str(tmp_path / "colour"), resolution=(24, 40))
    assert fit("images", wide, show=False).recipe.crop == "fit"


def test_a_few_small_pictures_are_told_of(tmp_path, capsys):
    folder = write(tmp_path / "it", 200, size=(40, 40))
    write(folder / "class-0", 1, size=(20, 20), classes=0)
    assert fit("images", Asked(str(folder))).recipe.network.resolution == 16
    said = capsys.readouterr().err
    assert "1 picture below 32 px keep the resolution at 16" in said
    assert "--resolution 32 --skip-bad-images" in said
    asked = Asked(str(folder), resolution=32, reading=Reading(skip_bad=True))
    assert fit("images", asked, show=False).recipe.network.resolution == 32
    # One large picture among small ones does not decide.
    small = write(tmp_path / "small", 40, size=(20, 20))
    write(small / "class-0", 1, size=(90, 90), classes=0)
    asked = Asked(str(small), reading=Reading(skip_bad=True))
    assert fit("images", asked, show=False).recipe.network.resolution == 16


def test_what_contradicts_the_images_is_refused(tmp_path):
    folder = str(write(tmp_path / "it"))
    for asked, message in (
        (
            Asked(folder, resolution=64),
            r"40 pictures of 40 are smaller than 64 px: --resolution 32",
        ),
        (Asked(folder, resolution=8), "--resolution 8 is not within 16 to 256 px"),
        (Asked(folder, resolution=512), "--resolution 512 is not within"),
        (Asked(""), "images is for images of your own: pass --data"),
        (
            Asked(str(write(tmp_path / "tiny", 3, size=(9, 9)))),
            "3 pictures of 3 have a side below 16",
        ),
    ):
        with pytest.raises(OvertoneError, match=message):
            fit("images", asked, show=False)
    with pytest.raises(OvertoneError, match="a whole number of times fewer"):
        fit("relay-images", Asked(folder, resolution=(18, 30)), show=False)
    with pytest.raises(OvertoneError, match="34 px are not a multiple of 4, by which the VAE that"):
        fit("latent-images", Asked(folder, resolution=34), show=False)
    with pytest.raises(OvertoneError, match="learns from what the teacher makes, and looks at no"):
        fit("dsno-images", Asked(folder, teacher="model"), show=False)


def test_colours_are_not_made_grey_unasked(tmp_path, capsys):
    folder = str(write(tmp_path / "it", size=(32, 32)))
    arguments = ["train", "diffit-fashion-mnist", "--data", folder, "--dry-run"]
    with pytest.raises(SystemExit):
        app.main(arguments)
    said = capsys.readouterr().err
    assert "40 pictures of 40 have colours, and the network makes grey images" in said
    with pytest.raises(SystemExit):
        app.main(["train", "images", "--data", folder, "--network.channels", "1"])
    assert "images with colours: leave it out, or pass --grey" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        app.main(["train", "images", "--data", folder, "--network.resolution", "16"])
    assert "pass --resolution, from which all of them follow" in capsys.readouterr().err
    app.main([*arguments, "--grey"])


def test_one_command_trains_on_a_folder(tmp_path, monkeypatch, capsys):
    """And the same command again goes on with the run, whatever the images are like by then."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine", mode="RGBA")
    app.main(["train", "images", "--data", "mine", "--resolution", "16", *QUICK])
    said = capsys.readouterr().err
    assert "mine: 40 images, 2 classes" in said
    assert "chosen for 16 px in colour" in said
    pipe = load_pipeline("runs/images")
    assert (pipe.resolution, pipe.num_classes, pipe.channels) == (16, 2, 3)
    assert "held_out_loss" in read_log(tmp_path / "runs" / "images")[0]
    for wrong, message in (
        (["--resolution", "32"], "runs/images is a run at 16 px, not 32: another --out begins"),
        (["--expert", "2"], "--expert: this recipe trains one network and has no experts"),
    ):
        with pytest.raises(SystemExit):
            app.main(["train", "images", "--data", "mine", *QUICK, *wrong])
        assert message in capsys.readouterr().err
    app.main(["train", "images", "--data", "mine", *QUICK[2:], "--total-images", "96"])
    assert "going on with runs/images, as it was begun" in capsys.readouterr().err
    assert load_pipeline("runs/images").training["images seen"] == 96


def test_backgrounds(tmp_path):
    folder = write(tmp_path / "it", mode="RGBA", classes=0)
    means = []
    for background in ("white", "black", "#ff0000"):
        reading = Reading(background=background)
        fitted = fit("images", Asked(str(folder), resolution=16, reading=reading), show=False)
        assert fitted.recipe.background == background
        data = open_data(str(folder), 16, 3, reading=reading)
        means.append(data.fetch(range(40))[0].float().mean(dim=(0, 2, 3)))
    white, black, red = means
    assert (white > black + 30).all()
    assert torch.allclose(red, torch.tensor([white[0], *black[1:]]), atol=1e-3)
    for wrong in ("reddish", "#12345", "#00000080", ""):
        with pytest.raises(ValueError, match="background must be a colour"):
            Reading(background=wrong)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relay-images", "meme-images", "latent-images", "dsno-images"])
def test_what_is_needed_first_is_trained_first(name, tmp_path, monkeypatch):
    """With its settings cut to a few steps, and again, where everything is there already."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine", size=(70, 66))
    monkeypatch.setattr("overtone.training.recipes.images._length", lambda facts, most: 64)
    small = {"cpu": (16, 16, 16, 16, 16, 32)}
    monkeypatch.setattr("overtone.training.recipes.images._WIDTHS", small)
    monkeypatch.setattr("overtone.training.recipes.images._BATCHES", {"cpu": (16,) * 5})
    more = ["--sampler.num-steps", "2"] if name in ("meme-images", "latent-images") else []
    if name == "dsno-images":
        more = ["--count", "8", "--held-out", "4", "--steps", "5"]
    size = "32" if name in ("meme-images", "dsno-images") else "64"
    command = ["train", name, "--data", "mine", "--resolution", size, *more]
    app.main(command)
    beside = {path.name for path in (tmp_path / "runs").iterdir()}
    needed = {"relay": "first", "meme": "trunk", "latent": "vae", "dsno": "teacher"}[
        name.split("-")[0]
    ]
    assert {name, f"{name}-{needed}"} <= beside
    pipe = load_pipeline(f"runs/{name}")
    assert pipe(seeds=[0], class_labels=0)[0].size == (int(size), int(size))
    if name == "relay-images":
        assert pipe.first.resolution == 16
    if name == "meme-images":
        facts = load_pipeline("runs/meme-images/expert-2").training
        assert facts["initialised from"] == "meme-images-trunk"
    app.main(command)


def test_init_takes_the_network_over(tmp_path, capsys):
    from helpers import TINY_DIFFIT, awake
    from overtone.networks.network import build

    torch.manual_seed(0)
    config = dataclasses.replace(TINY_DIFFIT, resolution=16, window=4)
    pipe = Pipeline(awake(build(config)), Sampler(num_steps=2), class_names=("class-1", "b", "c"))
    pipe.save_pretrained(tmp_path / "model")
    folder = str(write(tmp_path / "it"))
    app.main(["train", "images", "--data", folder, "--init", str(tmp_path / "model"), "--out",
              str(tmp_path / "run"), *QUICK])  # fmt: skip
    said = capsys.readouterr().err
    assert "1 of 2 classes have the same name there" in said
    made = load_pipeline(tmp_path / "run")
    assert made.network.config == dataclasses.replace(config, channels=3, num_classes=2)
    assert made.training["initialised from"] == "model"
    # A data set of the size that the network knows is trained on at that size.
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["network"]["resolution"] == 16


def test_in_python(tmp_path, monkeypatch):
    monkeypatch.setattr("overtone.training.recipes.images._length", lambda facts, most: 64)
    small = {"_BATCHES": {"cpu": (16,) * 5}, "_WIDTHS": {"cpu": (16, 16, 16, 16, 16, 32)}}
    for name, value in small.items():
        monkeypatch.setattr(f"overtone.training.recipes.images.{name}", value)
    folder = write(tmp_path / "it", 40)
    pipe = overtone.train("images", tmp_path / "named", data=str(folder), show=False)
    assert (pipe.resolution, pipe.num_classes) == (32, 2)
    again = overtone.train("images", tmp_path / "named", data=str(folder), show=False)
    assert again.training == pipe.training
    with pytest.raises(OvertoneError, match="held_out goes with data that are an object"):
        overtone.train("images", tmp_path / "b", data=str(folder), held_out=[], show=False)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), dtype=np.uint8)
    labels = np.arange(40) % 2
    pipe = overtone.train(
        "images", tmp_path / "given", data=(pixels, labels, ("a", "b")), show=False
    )
    assert (pipe.resolution, pipe.class_names) == (16, ("a", "b"))


def test_data_given_at_one_size_keep_it():
    class Mine:
        class_names, fingerprint = ("a", "b"), "1"

        def __len__(self):
            return 40

        def fetch(self, indices):
            shape = len(indices), 1, 20, 24
            return torch.randint(0, 256, shape, dtype=torch.uint8), torch.tensor(indices) % 2

    found = survey_given(Mine())
    assert (found.fixed, found.channels) == ((20, 24), 1)
    fitted = fit("images", Asked(), Given(Mine()), show=False)
    assert fitted.recipe.network.resolution == (20, 24)
    assert not isinstance(fitted.recipe, Subset)


def test_a_run_that_died_before_it_said_what_it_trains_begins_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine")
    command = ["train", "images", "--data", "mine", "--resolution", "16", *QUICK]
    app.main(command)
    (tmp_path / "runs" / "images" / "recipe.json").unlink()
    app.main(command)
    assert (tmp_path / "runs" / "images" / "recipe.json").exists()
    assert "going on with" not in capsys.readouterr().err


def test_pictures_given_in_python_are_looked_at_one_by_one():
    alive, most = set(), 0

    class Pictures:
        def __len__(self):
            return 300

        def __getitem__(self, number):
            nonlocal most
            image = np.full((40, 40, 3), number % 256, np.uint8)
            alive.add(number)
            most = max(most, len(alive))
            weakref.finalize(image, alive.discard, number)
            return image

    found = survey_given(Pictures())
    assert found.count == 300
    assert most < 10


def test_objects_that_answer_wrongly_are_told():
    class Wrong:
        fingerprint, class_names = "1", ("a",)

        def __len__(self):
            return 3

        def fetch(self, indices):
            return {}["images"]

    with pytest.raises(OvertoneError, match="`fetch` of Wrong has to return images"):
        survey_given(Wrong())


def test_how_pictures_were_read_stays_with_the_model(tmp_path, monkeypatch):
    """A saved model, away from its run, is compared with pictures on its own background."""
    from overtone.training.judging import reading_of

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine", mode="RGBA")
    more = ["--background", "black", "--resolution", "16", *QUICK]
    app.main(["train", "images", "--data", "mine", *more])
    load_pipeline("runs/images").save_pretrained("model")
    for model in ("runs/images", "model"):
        assert reading_of(load_pipeline(model), model) == Reading(background="black")
