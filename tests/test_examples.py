"""The examples run as their docstrings say."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from overtone import load_pipeline
from overtone.runs import find_checkpoint
from test_fitting import write as write_pictures

ROOT = Path(__file__).parent.parent
SHORT = {
    "train": ["--total-images", "640", "--lr-rampup-images", "64"],
    "sample": ["--seeds", "0-3"],
    "evaluate": ["--seeds", "0-49", "--real-images", "100", "--steps", "3"],
    "distill collect": ["--count", "32", "--held-out", "0", "--steps", "8"],
    "distill train": ["--count", "32", "--held-out", "0", "--steps", "8", "--total-images", "64"],
    "merge": [],
}


def commands_of(name, folder):
    """The commands in an example's docstring, as (what, words), the example copied beside."""
    (folder / "examples").mkdir()
    file = shutil.copy(ROOT / "examples" / name, folder / "examples")
    text = Path(file).read_text().partition('"""')[2].partition('"""')[0]
    lines = [line.split("  ")[0] for line in map(str.strip, text.splitlines())]
    commands = [line.split() for line in lines if line.startswith("overtone ")]
    return [(" ".join(w[1:3]) if w[1] == "distill" else w[1], w[1:]) for w in commands]


def done(words, folder):
    """A command in a process of its own, which has to succeed."""
    ended = subprocess.run(
        [sys.executable, "-m", "overtone", *words],
        capture_output=True, text=True, cwd=folder,
        env={**os.environ, "OVERTONE_CACHE": str(folder / "cache")},
    )  # fmt: skip
    assert ended.returncode == 0, (words, ended.stderr[-2000:])
    return ended


@pytest.mark.slow
def test_the_four_systems_combined(tmp_path):
    """Each command of the docstring but the comparison, with few images."""
    few = ["--count", "16", "--held-out", "0"]
    few_images = ["--total-images", "16", "--batch-size", "8"]
    short = {
        "train": [*few_images, "--held-out-images", "8", "--sampler.num-steps", "4"],
        "distill collect": few,
        "distill train": [*few, *few_images],
        "sample": ["--seeds", "0-3"],
    }
    commands = commands_of("combined.py", tmp_path)
    assert commands.pop()[0] == "compare"
    said = [done([*words, *short[what]], tmp_path) for what, words in commands]
    assert "2 function evaluations each" in said[-1].stderr
    assert "begins with the network of the expert that sampling begins with" in said[5].stderr
    pipe = load_pipeline(find_checkpoint(tmp_path / "runs" / "dsno_combined"))
    kinds = [stage.network.within.config.kind for stage in (pipe, pipe.first)]
    assert kinds == ["DiffiTUNet", "DiffiTUNet"]


@pytest.mark.slow
def test_own_parts_through_every_command(tmp_path):
    """Each command of the docstring, in a process of its own, with few images."""
    commands = commands_of("own_parts.py", tmp_path)
    assert {what for what, _ in commands} == set(SHORT)
    said = [done([*words, *SHORT[what]], tmp_path) for what, words in commands]
    assert "executing examples/own_parts.py" in said[0].stderr
    report = json.loads(said[2].stdout)
    assert report["made_with"]["network"]["kind"] == "Plain"
    assert report["made_with"]["preconditioning"]["module"] == "own_parts"
    assert (tmp_path / "shapes.png").exists()
    assert (tmp_path / "one_step.png").exists()
    assert (tmp_path / "runs" / "two" / "pipeline.json").exists()
    refused = subprocess.run(
        [sys.executable, "-m", "overtone", "sample", "runs/one_step"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert refused.returncode == 1
    assert "--import" in refused.stderr


@pytest.mark.slow
def test_own_images_from_a_folder_of_pictures_to_what_is_handed_on(tmp_path):
    """The rehearsal of the script: at most fifteen commands, with options that the page of commands
    names."""
    script = (ROOT / "examples" / "own_images.sh").read_text()
    commands = [line for line in script.splitlines() if re.search(r"^(test|overtone|\()", line)]
    assert len(commands) <= 15
    page = (ROOT / "docs" / "commands.md").read_text()
    options = set(re.findall(r"--[a-z.-]+", script))
    assert {option for option in options if not re.search(rf"{option}(?![\w.-])", page)} == set()

    pictures = write_pictures(tmp_path / "pictures", 40)
    command = ["sh", str(ROOT / "examples" / "own_images.sh"), str(pictures), "64"]
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    env = {"OVERTONE_CACHE": str(tmp_path / "cache"), "PATH": os.pathsep.join(paths)}
    began = [_run(command, tmp_path, env) for _ in range(2)]  # the second time goes on
    assert "tensors copied" in began[0]
    assert "tensors copied" not in began[1]
    sizes = {"small": (67, 67), "student": (131, 131), "exported/sample": (32, 32)}
    for name, size in sizes.items():
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size[0] == size[0]
            assert image.size[1] >= size[1]
    assert len(list((tmp_path / "enlarged").rglob("*.png"))) == 40
    with Image.open(tmp_path / "enlarged" / "class-0" / "000.png") as image:
        assert image.size == (80, 72)
    card = (tmp_path / "models" / "mine" / "README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert "| Fréchet distance |" in card
    assert "| initialised from | small |" in card


def _run(command, folder, env):
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr
