"""The command line, as a user types it."""

import dataclasses
import json
import subprocess
import sys

import pytest
from PIL import Image

from helpers import TINY_DIFFIT, awake
from overtone import storage
from overtone.cli.app import COMMANDS, main
from overtone.cli.evaluate import Judging
from overtone.cli.sample import Sampling
from overtone.errors import OvertoneError
from overtone.networks import DiffiTUNet
from overtone.pipelines import DiffiTPipeline, load_pipeline
from overtone.pipelines.seeds import seeds_of
from overtone.samplers import Sampler


@pytest.fixture
def model(tmp_path):
    pipe = DiffiTPipeline(
        awake(DiffiTUNet(TINY_DIFFIT)), Sampler(num_steps=2), class_names=("cat", "dog", "emu")
    )
    pipe.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def fails(capsys, *arguments, status=1):
    """The error message of a command that must fail, without a traceback."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == status
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return " ".join(errors.replace("│", " ").split())


def test_help_imports_nothing_heavy():
    script = "import sys; from overtone.cli.app import main; main(['--help']); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *text, modules = run.stdout.splitlines()
    assert all(command in " ".join(text) for command in COMMANDS)
    heavy = {"torch", "numpy", "pydantic", "tyro", "rich", "huggingface_hub", "jaxtyping"}
    assert heavy.isdisjoint(modules.split())


def test_importing_the_package_imports_no_torch():
    script = "import sys, overtone; assert 'torch' not in sys.modules; overtone.DiffiTUNet"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_public_names_are_there():
    import overtone

    for name in overtone.__all__:
        assert getattr(overtone, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Unet'"):
        _ = overtone.Unet


def test_python_m_overtone_is_the_command():
    run = [sys.executable, "-m", "overtone", "--version"]
    assert subprocess.run(run, capture_output=True, text=True).stdout.startswith("overtone 0.")


def test_recipes_are_listed_with_their_size(capsys):
    main(["recipes"])
    text = capsys.readouterr().out
    for name in (
        "diffit-digits",
        "adm-digits",
        "diffit-fashion-mnist",
        "diffit-cifar10",
        "diffit-ffhq64",
    ):
        assert name in text
    assert "48.7 M" in text
    assert "40,000" in text  # images of vae-glyphs


def test_samples_as_a_grid_and_as_single_images(model, tmp_path):
    main(
        ["sample", model, "--seeds", "0-4,9", "--classes", "dog", "2", "--out", f"{tmp_path}/g.png"]
    )
    with Image.open(tmp_path / "g.png") as image:
        assert image.size[0] == 2 * 9 - 1  # a column for each of the two classes
        layout = json.loads(image.text["overtone-grid"])
        assert image.size[1] == layout["header"] + 3 * 9 - 1
    many = tmp_path / "many"
    for _ in range(2):  # again over what a kill left
        main(["sample", model, "--seeds", "3,1", "--out", str(many), "--guidance-scale", "2"])
        names = {f.name for f in many.iterdir()}
        assert names - {".writing-12ab34cd-000001.png"} == {"000001-dog.png", "000003-cat.png"}
        (many / ".writing-12ab34cd-000001.png").touch()
    assert (tmp_path / "many.png").exists()  # the grid, beside


def test_folders_of_images_are_evaluated_too(model, tmp_path, capsys, monkeypatch):
    from overtone.metrics import ClassifierExtractor
    from overtone.networks import Classifier, ClassifierConfig

    # The classifier itself is trained in the slow tests.
    extractor = ClassifierExtractor(Classifier(ClassifierConfig(resolution=8, channels=1)), "d")
    monkeypatch.setattr("overtone.training.classifier.classifier_of", lambda *_, **__: extractor)
    main(["sample", model, "--seeds", "0-19", "--out", f"{tmp_path}/images"])
    main(["evaluate", f"{tmp_path}/images", "--data", "builtin:digits", "--resolution", "8",
          "--channels", "1", "--out", f"{tmp_path}/scores.json"])  # fmt: skip
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["images"] == 20
    assert scores["class_accuracy"] is None

    capsys.readouterr()
    pipe = DiffiTPipeline(DiffiTUNet(dataclasses.replace(TINY_DIFFIT, num_classes=10)),
                          Sampler(num_steps=2), data="builtin:digits")  # fmt: skip
    pipe.save_pretrained(tmp_path / "digits")
    main(["evaluate", f"{tmp_path}/digits", "--seeds", "0-29"])
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 30
    assert result["made_with"]["seeds"] == "0-29"
    assert result["made_with"]["sampler"]["num_steps"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian': did you mean 'train'?"),
        (["train", "difit-digits"], "unknown recipe 'difit-digits': did you mean 'diffit-digits'?"),
        (["train", "diffit-cifar10"], "pass --data FOLDER"),
        (["train", "diffit-digits", "--network.window", "3"], "does not divide into windows of 3"),
        (["train", "diffit-digits", "--network.resolution", "16"], "8 px and grey, not 16 px"),
        (["train", "diffit-digits", "--data", "/no/where"], "'/no/where' does not exist"),
        (["train", "diffit-digits", "--network.num-classes", "7"], "has 10 classes"),
        (["train", "no.json"], "no.json does not exist"),
        (["sample", "/no/where"], "does not exist"),
    ],
)
def test_mistakes_are_explained(capsys, arguments, message):
    assert message in fails(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "diffit-digits", "--batch-sice", "3"], "--batch-size"),
        (["train", "diffit-digits", "--lr", "fast"], "fast"),
        (["train", "diffit-digits", "--precision", "fp8"], "fp8"),
        (["train", "diffit-digits", "--batch-size", "0"], "batch_size must be at least 1, not 0"),
        (["train", "diffit-digits", "--sampler.eta", "7"], "eta must be in [0, 1], not 7.0"),
        (["train", "diffit-digits", "--sampler.rho", "0"], "rho must be from 0.1 to 1,000, not "),
        (["train", "diffit-digits", "--betas", "2", "0.9"], "betas must be in"),
        (["train", "diffit-digits", "--report-images", "0"], "report_images must be at least 1"),
        (["train", "diffit-digits", "--keep", "0"], "keep must be at least 1"),
        (["train", "diffit-digits", "--network.window", "0"], "window must be at least 1"),
        (["train", "diffit-digits", "--network.token-width", "7"], "token_width must be even"),
        (["train", "diffit-digits", "--label-dropout", "2"], "label_dropout must be in"),
    ],
)
def test_options_are_typed_and_misspelt_ones_named(capsys, arguments, message):
    assert message in fails(capsys, *arguments, status=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0-3,2"], "names a seed twice"),
        (["--seeds", "a"], "--seeds is like 0-63"),
        (["--seeds", "4294967296"], "seeds are in"),
        (["--seeds", "5-2"], "first before last"),
        (["--classes", "dgo"], "unknown class 'dgo': did you mean 'dog'?"),
        (["--classes", "3"], "unknown class '3'"),
        (["--checkpoint", "middle"], "last or best"),
        (["--steps", "0"], "--steps must be at least 1, not 0"),
    ],
)
def test_mistakes_in_sampling_are_explained(capsys, model, tmp_path, arguments, message):
    assert message in fails(capsys, "sample", model, *arguments, "--out", f"{tmp_path}/x.png")
    assert not (tmp_path / "x.png").exists()


def test_grids_are_png(capsys, model, tmp_path):
    assert "a .png file or a directory" in fails(capsys, "sample", model, "--out", "x.jpg")


def test_seeds_are_parsed():
    assert seeds_of("3,5,8-12") == [3, 5, 8, 9, 10, 11, 12]
    with pytest.raises(OvertoneError):
        seeds_of("")


def test_seeds_out_of_order_or_range_are_refused(capsys, model):
    for wrong in ("5,8-3", "0-99999999999"):
        assert "first before last" in fails(capsys, "sample", model, "--seeds", wrong)


def test_help_of_distill_needs_no_recipe(capsys):
    main(["distill", "collect", "--help"])
    assert "dsno-digits" in capsys.readouterr().out


def test_a_run_is_evaluated_with_its_own_data(model, tmp_path, monkeypatch, capsys):
    """Its recipe is this machine's, and names it, whatever it is called; the model alone may have
    been downloaded."""
    monkeypatch.chdir(tmp_path)
    for name, colour in (("cat", 0), ("dog", 99), ("emu", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            picture = Image.new("RGB", (8, 8), (colour, number, 0))
            picture.save(tmp_path / "pictures" / name / f"{number}.png")
    pipe = load_pipeline(model)
    pipe.data = "pictures"
    pipe.save_pretrained(tmp_path / "run" / "checkpoints" / "000000032")
    storage.write_json(tmp_path / "run" / "run.json", {})
    storage.write_json(tmp_path / "run" / "recipe.json", {"data": "pictures"})
    asked = ("--seeds", "0-7", "--steps", "1")
    checkpoint = "run/checkpoints/000000032"
    assert "pass --data: the model was" in fails(capsys, "evaluate", checkpoint, *asked)
    monkeypatch.setattr("overtone.training.classifier.classifier_of", lambda *_, **__: None)
    monkeypatch.setattr("overtone.metrics.Evaluation", lambda _, data, *others, **more: data)
    judging = Judging()
    data = judging.evaluation_of(pipe, "run", Sampling(seeds="0-7"))
    assert data.class_names == ("cat", "dog", "emu")
    assert "have other names" not in capsys.readouterr().err
    pipe.class_names = ("dog", "cat", "emu")
    judging.evaluation_of(pipe, "run", Sampling(seeds="0-7"))
    assert "the classes of pictures have other names, or another order" in capsys.readouterr().err


def test_evaluation_without_data_asks_for_it(capsys, model, tmp_path):
    assert "pass --data" in fails(capsys, "evaluate", model, "--seeds", "0-3")
    # Three classes against the digits' ten.
    errors = fails(capsys, "evaluate", model, "--data", "builtin:digits", "--seeds", "0-3")
    assert "the model has 3 classes and builtin:digits has 10" in errors
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "images").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "images" / "a.png")
    assert "give the real ones, --data, and --resolution" in fails(
        capsys, "evaluate", f"{tmp_path}/images"
    )


def test_info_tells_what_a_directory_holds(capsys, tmp_path):
    from helpers import TINY_DIFFIT
    from overtone.networks import DiffiTUNet
    from overtone.pipelines import DiffiTPipeline

    pipe = DiffiTPipeline(
        DiffiTUNet(TINY_DIFFIT), class_names="abc", data="/home/me/cats", training={"seed": 3}
    )
    pipe.save_pretrained(tmp_path / "pipe")
    main(["info", str(tmp_path / "pipe"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["training"], found["class_names"]) == (
        "pipeline", {"seed": 3}, ["a", "b", "c"]
    )  # fmt: skip
    assert found["weights"]["values"] == pipe.network.num_parameters
    assert found["weights"]["config"]["window"] == 4
    main(["info", str(tmp_path / "pipe")])
    assert "DiffiTUNet" in capsys.readouterr().out
    main(["info", str(tmp_path / "pipe" / "network"), "--json"])
    assert json.loads(capsys.readouterr().out)["kind"] == "DiffiTUNet"
    card = (tmp_path / "pipe" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: overtone")
    assert "| trained on | cats |" in card  # of a local path the last part alone
    assert "3: a, b, c" in card
    assert "neither a run" in fails(capsys, "info", str(tmp_path))


def test_data_inspect_reports_and_fails_on_bad_images(capsys, tmp_path):
    for name, size in (("a/1.png", (20, 16)), ("b/2.png", (8, 8))):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "red").save(tmp_path / "set" / name)
    sheet = tmp_path / "sheet.png"
    main(["data", "inspect", str(tmp_path / "set"), "--out", str(sheet)])
    out = capsys.readouterr().out
    assert "train split: 2 images" in out
    assert "2 sizes, 8 x 8 to 20 x 16" in out
    with Image.open(sheet) as image:
        assert image.size == (8 * 65 - 1, 64)
    with pytest.raises(SystemExit) as ended:
        main(["data", "inspect", str(tmp_path / "set"), "--resolution", "16", "--out", str(sheet)])
    assert ended.value.code == 1
    both = capsys.readouterr()
    assert "2.png is 8 x 8, smaller than the resolution 16" in both.out
    assert "1 image would be refused" in both.err
    assert "did you mean 'inspect'" in fails(capsys, "data", "inspct", "x")
