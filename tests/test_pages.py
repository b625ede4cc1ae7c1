"""Every command and every piece of Python on the pages is run, with fewer images and steps than the
pages ask for. A page has a directory of its own, which holds the runs and pictures it may name."""

import dataclasses
import re
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image

import overtone
from overtone.cli.app import main
from pages import PAGES, ROOT, Code, code_of, commands_of

SKIPPED = {
    r"^(make|pip|git|hf) ": "what the other tests stand on, or what publishes",
    r"^python examples/": "hours; their parts are tested in test_studies.py and test_examples.py",
    r"^python (sample|upscale).py": "what test_export.py runs",
    r"^(torchrun|accelerate) ": "several processes: test_launch.py",
    r"^overtone studio": "a server: test_studio.py and test_studio_browser.py",
    r"^overtone bench": "minutes, and other libraries to install: test_bench.py",
    r"diffit_256|diffit-256|solver-model|\.pkl ": "published weights: test_latent_diffit.py",
    r"stabilityai/|google/|hf:uoft|latents/mine": "repositories of the Hub",
    r"cats\.parquet": "a file that is nobody's: test_hub.py",
    r"ffhq\.zip": "a data set that is not there",
    r"my_recipes\.py|my_data\.py": "the reader's files: test_own_parts.py",
    r"^overtone recipes|--dry-run": "",
}
"""Commands that are not run, and where what they do is tested. Nothing for those that are run as
they stand."""
SIZES = {
    "diffit-ffhq64": "--network.widths 32 32 32 32 --network.num-cells 1 1 1 1"
    " --network.token-width 32",
    "diffit-fashion-mnist": "--network.widths 32 32 32 --network.num-cells 1 1 1",
    "relay-images": "--network.widths 32 32 32 32 --resolution 64",
    "relay-glyphs": "--network.widths 32 32 32 32",
}
"""Smaller networks of recipes whose own would take minutes."""
FEWER = {
    "total-images": "96",
    "batch-size": "16",
    "report-images": "48",
    "checkpoint-images": "96",
    "held-out-images": "16",
}
TRAINING = {"total_images": 96, "batch_size": 16}
REPORTING = {"report_images": 48, "checkpoint_images": 96, "held_out_images": 16}
PYTHON = {
    'train("diffit-digits",': 'train(short("diffit-digits"),',
    "train(recipe,": "train(short(recipe),",
    "range(500)": "range(32)",
    "range(1000), batch_size=100": "range(20), batch_size=10",
    "range(50_000)": "range(50)",
    "50_000": "50",
    '"cuda"': '"cpu"',
    "runs/relay-glyphs/checkpoints/000040000": "runs/relay-glyphs",
    "FitSettings(evaluations=(5, 8)": "FitSettings(evaluations=(5, 8), search_images=32,"
    " check_images=32, trials=2, iterations=2",
    "DiffiTConfig.cifar10()": "DiffiTConfig(resolution=32)",
}
"""What is written otherwise in Python, so that it takes seconds."""


def short(recipe):
    """A recipe for a run of seconds."""
    recipe = overtone.find_recipe(recipe) if isinstance(recipe, str) else recipe
    return dataclasses.replace(
        recipe,
        training=dataclasses.replace(recipe.training, **TRAINING),
        reporting=dataclasses.replace(recipe.reporting, **REPORTING),
    )


def set_option(words, name, *values):
    """The command with an option, in the place of the one it may have."""
    words = list(words)
    if f"--{name}" in words:
        at = words.index(f"--{name}")
        end = at + 1
        while end < len(words) and not words[end].startswith("--"):
            end += 1
        del words[at:end]
    return [*words, f"--{name}", *values]


def shortened(words):
    """A command that asks for few images, small networks, and few steps."""
    words = list(words)
    name = " ".join(words[1:3]) if words[1] in ("distill", "data") else words[1]
    if name in ("train", "distill train", "distill halve") and not words[2].startswith("runs/"):
        recipe = words[2] if name == "train" else words[3]
        for option, value in FEWER.items():
            words = set_option(words, option, value)
        for option in re.findall(r"--\S+ [^-]*", SIZES.get(recipe, "") + " "):
            words = set_option(words, *option[2:].split())
    if name in ("distill collect", "distill train") or words[2] == "dsno-images":
        words = set_option(words, "count", "64")
        words = set_option(words, "held-out", "16")
        if name == "distill train":
            words = set_option(words, "held-out-images", "16")
    if name == "fit":
        options = "search-images 32", "check-images 32", "trials 2", "iterations 2", "batch-size 16"
        for option in options:
            words = set_option(words, *option.split())
        if "--guidance" in words:
            words = set_option(words, "search.images", "32")
    if words[1:3] in (["analyze", "guidance"], ["analyze", "eta"], ["analyze", "split"]):
        words = set_option(words, "seeds", "0-31")
    if name == "ema":
        words = set_option(words, "scored-images", "32")
        words = set_option(words, "lengths", "0.05", "0.1")
    for at, word in enumerate(words):
        if words[at - 1] == "--seeds" and re.fullmatch(r"0-\d+", word):
            words[at] = f"0-{min(31, int(word[2:]))}"
    if name == "compare":
        words = set_option(words, "seeds", "0-31")
    return words


def begun(words):
    """The directory of the run that a command of training begins or goes on with, or None."""
    if words[1] != "train" or words[2].startswith("runs/") or "--dry-run" in words:
        return None
    return words[words.index("--out") + 1] if "--out" in words else f"runs/{words[2]}"


def is_skipped(words):
    text = " ".join(words)
    return any(reason and re.search(pattern, text) for pattern, reason in SKIPPED.items())


def write_pictures(folder):
    """Forty pictures of 80 x 72 px in two classes."""
    generator = np.random.default_rng(0)
    for number in range(40):
        small = Image.fromarray(generator.integers(0, 256, (9, 10, 3), np.uint8))
        file = folder / "AB"[number % 2] / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        small.resize((80, 72), Image.Resampling.BILINEAR).save(file)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The runs, models and pictures that pages name, each trained for seconds."""
    folder = tmp_path_factory.mktemp("world")
    write_pictures(folder / "pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        commands = """\
            overtone train diffit-digits
            overtone train diffit-digits --network.time-in separate --out runs/separate
            overtone train images --data ~/pictures --resolution 32
            overtone train relay-glyphs-16
            overtone train relay-glyphs
            overtone train relay-images --data ~/pictures --first runs/images
            overtone train meme-digits
            overtone distill collect dsno-digits
            overtone distill train dsno-digits
            overtone distill halve halve-digits
            overtone sample runs/relay-images --seeds 0-15 --out samples.npz
            overtone sample runs/diffit-digits --seeds 0-15 --out digits.png
            overtone evaluate runs/images --seeds 0-31 --out scores.json
            """
        for words in commands_of(Code(False, commands)):
            main(shortened(words)[1:])
        pipe = overtone.load_pipeline("runs/diffit-digits")
        pipe.save_pretrained("MODEL")
        pipe.save_pretrained("models/digits")
        overtone.load_pipeline("runs/images").save_pretrained("models/mine")
    for name in ("digits", "tmsa", "other", "a", "b"):
        shutil.copytree(folder / "runs" / "diffit-digits", folder / "runs" / name)
    shutil.copytree(ROOT / "models", folder / "models", dirs_exist_ok=True)
    grey = Image.fromarray(np.full((8, 8), 128, np.uint8))
    for name in ("picture.png", "keep.png", "seven.png"):
        grey.save(folder / name)
    return folder


@pytest.fixture
def copied(world, tmp_path):
    """A world of one's own, for as long as the test takes: it is a gigabyte."""
    folder = tmp_path / "world"
    shutil.copytree(world, folder)
    yield folder
    shutil.rmtree(folder)


class Shapes:
    """The reader's own data."""

    class_names = ("dark", "light")
    fingerprint = "dark and light"

    def __init__(self, resolution, channels):
        self.shape = channels, resolution, resolution

    def __len__(self):
        return 64

    def fetch(self, indices):
        images = torch.stack(
            [torch.full(self.shape, 128 + index, dtype=torch.uint8) for index in indices]
        )
        return images, torch.tensor([index % 2 for index in indices])


def namespace(folder):
    """What the Python of pages takes as given."""
    from dataclasses import dataclass

    from overtone.denoisers.preconditioning import Preconditioning
    from overtone.ranges import Share

    pipe = overtone.load_pipeline("runs/diffit-digits")
    with Image.open("picture.png") as picture, Image.open("keep.png") as keep:
        picture.load(), keep.load()
    return {
        "overtone": overtone,
        "short": short,
        "dataclass": dataclass,
        "Preconditioning": Preconditioning,
        "Share": Share,
        "Shapes": Shapes,
        "pipe": pipe,
        "picture": picture,
        "keep": keep,
        "paths": ["runs/a", "runs/b", "runs/digits"],
        "pictures": torch.zeros(3, 3, 16, 16),
        "dataset": [(np.zeros((8, 8), np.uint8), n % 10) for n in range(40)],
        "test_dataset": [(np.full((8, 8), n, np.uint8), n % 10) for n in range(20)],
    }


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_says_runs(page, copied, monkeypatch):
    folder = copied
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("OVERTONE_DEBUG", "1")
    # What latent-images and others train first has no options of its own.
    monkeypatch.setattr("overtone.training.recipes.images._length", lambda facts, most: 96)
    names, own = namespace(folder), set()
    for code in code_of(page):
        if code.python:
            text = code.text
            if "diffit-256" in text or "cifar10-32x32" in text:
                continue  # published files
            for written, instead in PYTHON.items():
                text = text.replace(written, instead)
            raised = re.search(r"# (ValueError|TypeError): (.+)", text)  # which the page shows
            with pytest.raises((ValueError, TypeError)) if raised else nullcontext() as caught:
                exec(compile(text, str(page), "exec"), names)
            assert raised is None or raised[2].rstrip(".") == str(caught.value)
            continue
        for words in commands_of(code):
            if not is_skipped(words):
                print(" ".join(shortened(words)), flush=True)
                if (run := begun(words)) and run not in own:  # the world's has other settings
                    shutil.rmtree(run, ignore_errors=True)
                    own.add(run)
                try:
                    main(shortened(words)[1:])
                except overtone.OvertoneError as error:
                    if "was better than the model's own" not in str(error):
                        raise  # a fit on few images may find nothing


def test_pages_have_code_and_what_is_skipped_is_there():
    commands = [
        " ".join(w) for p in PAGES for c in code_of(p) if not c.python for w in commands_of(c)
    ]
    assert len(commands) > 100
    for pattern in SKIPPED:
        assert any(re.search(pattern, command) for command in commands), pattern
    texts = [code.text for page in PAGES for code in code_of(page) if code.python]
    for written in PYTHON:
        assert any(written in text for text in texts), written


def test_commands_are_read_without_their_comments():
    text = (
        "overtone train x --out 'a b'   a comment\novertone sample \\\n    --seeds 0-3  # more\nno"
    )
    assert commands_of(Code(False, text)) == [
        ["overtone", "train", "x", "--out", "a b"],
        ["overtone", "sample", "--seeds", "0-3"],
    ]
    made = shortened(["overtone", "sample", "runs/a", "--seeds", "0-519", "--out", "x.png"])
    assert made[3:5] == ["--seeds", "0-31"]
    made = shortened(["overtone", "train", "diffit-digits", "--total-images", "9", "--out", "x"])
    assert made[made.index("--total-images") + 1] == "96"
    assert made.count("--total-images") == 1
