"""kill -9 at any moment: what a command makes in the end is the same, bit for bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from test_disk_full import COMMANDS

SCRIPT = Path(__file__).parent / "kills.py"
KINDS = {
    "train": ("train", "run"),
    "experts": ("train experts", "run"),
    "collect": ("collect", "solved"),
    "distil": ("distil", "run"),
    "encode": ("encode", "latents"),
    "sample": ("sample a directory", "images"),
}


def kills(place, folder, kind, moments):
    """The whole run, and those that were killed once and gone on with."""
    command, out = KINDS[kind]
    words = COMMANDS[command].format(place=place, disk=folder).split()
    script = [sys.executable, str(SCRIPT), str(folder / out), str(moments), *words]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    whole, *killed = map(json.loads, done.stdout.splitlines())
    assert whole["status"] == 0, done.stderr[-2000:]
    assert len(killed) == moments
    return whole, killed, done.stderr


def check(place, folder, kind, moments):
    whole, killed, errors = kills(place, folder, kind, moments)
    assert whole["files"]
    assert "Traceback" not in errors
    for run in killed:
        assert run["killed"] == -9
        assert run["status"] == 0, errors[-2000:]
        assert run["files"] == whole["files"], run["kill_at"]


@pytest.mark.slow
def test_some_kills(place, tmp_path):
    check(place, tmp_path, "sample", 2)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_kills_at_moments_spread_over_the_work(kind, place, tmp_path):
    """17 for each of the six: 102 in all."""
    check(place, tmp_path, kind, 17)
