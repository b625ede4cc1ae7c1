"""The examples run as their docstrings say."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHORT = {
    "train": ["--total-images", "640", "--lr-rampup-images", "64"],
    "sample": ["--seeds", "0-3"],
    "evaluate": ["--seeds", "0-49", "--real-images", "100", "--steps", "3"],
    "distill collect": ["--count", "32", "--held-out", "0", "--steps", "8"],
    "distill train": ["--count", "32", "--held-out", "0", "--steps", "8", "--total-images", "64"],
    "merge": [],
}


@pytest.mark.slow
def test_own_parts_through_every_command(tmp_path):
    """Each command of the docstring, in a process of its own, with few images."""
    (tmp_path / "examples").mkdir()
    file = shutil.copy(ROOT / "examples" / "own_parts.py", tmp_path / "examples")
    text = Path(file).read_text().partition('"""')[2].partition('"""')[0]
    commands = [line.split() for line in text.splitlines() if line.startswith("overtone ")]
    kinds = [" ".join(words[1:3]) if words[1] == "distill" else words[1] for words in commands]
    assert set(kinds) == set(SHORT)
    said = []
    for words, what in zip(commands, kinds, strict=True):
        done = subprocess.run(
            [sys.executable, "-m", "overtone", *words[1:], *SHORT[what]],
            capture_output=True, text=True, cwd=tmp_path,
            env={**os.environ, "OVERTONE_CACHE": str(tmp_path / "cache")},
        )  # fmt: skip
        assert done.returncode == 0, (what, done.stderr[-2000:])
        said.append(done)
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
