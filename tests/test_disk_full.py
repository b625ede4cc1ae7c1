"""A disk that is full: whatever a command was writing, it says so in a line, and goes on later.

Each command is given a small disk with less and less room, so that each of its writes fails once.
"""

import contextlib
import os
import shutil
import subprocess

import pytest

from bad_input import OF
from overtone.cli.app import main

NEEDED = 48 * 2**20
LEFT = [0, 2**12, 2**14, 2**15, 2**16, 2**17, 2**18, 2**19, 2**20, 2**21, 2**22, NEEDED // 2]
"""bytes of room, one try after another, until the command ends well"""

TINY = "--network.widths 16 --network.num-cells 1 --network.head-channels 8 --total-images 128"
TINY += " --checkpoint-images 64 --report-images 64 --held-out-images 64 --batch-size 64"
EXPERTS = "--experts.boundaries 1.0 --experts.probabilities 0.5 0.5 --experts.shapes same"

COMMANDS = {
    "train": f"train diffit-digits {TINY} --out {{disk}}/run",
    "train experts": f"train meme-digits --total-images 64 --held-out-images 64 --batch-size 64"
    " --network.widths 16 --network.num-cells 2 --network.head-channels 8"
    f" --network.inception-heads 1 {EXPERTS} --out {{disk}}/run",
    "sample a grid": "sample {place}/model --seeds 0-3 --out {disk}/grid.png",
    "sample a directory": "sample {place}/model --seeds 0-3 --out {disk}/images",
    "edit": "edit {place}/unconditional {place}/plain/a.png --fit --out {disk}/edited.png",
    "inspect": "data inspect {place}/plain --out {disk}/sheet.png",
    "encode": "data encode {place}/plain --vae {place}/vae --resolution 16 --out {disk}/latents",
    "collect": f"distill collect {OF} --out {{disk}}/solved",
    "distil": f"distill train {OF} --data {{place}}/solved --total-images 64 --batch-size 16"
    " --checkpoint-images 32 --held-out-images 16 --out {disk}/run",
    "merge": "merge {place}/unconditional {place}/unconditional --boundaries 1.0 --out {disk}/all",
    "evaluate": "evaluate {place}/digits --data builtin:digits --resolution 8 --channels 1"
    " --real-images 64 --out {disk}/report.json",
    "snr": "analyze snr builtin:glyphs --resolution 16 --factor 2 --images 8 --out {disk}/snr.png",
    "spectrum": "analyze spectrum {place}/unconditional --seeds 0-1 --out {disk}/spectrum.png",
    "attention": "analyze attention {place}/unconditional --seeds 0-1 --out {disk}/attention.png",
    "trajectory": "analyze trajectory {place}/unconditional --seeds 0-1 --times 4 --out"
    " {disk}/trajectory.png",
    "guidance": "analyze guidance {place}/digits-model --data builtin:digits --scales 1 2 --seeds"
    " 0-7 --real-images 64 --out {disk}/guidance.png",
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A file system of its own, of some megabytes."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={NEEDED}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can't be mounted here: it takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def models(place):
    """What else the commands need, beside the models of `place`."""
    from overtone.networks import DiffiTConfig, DiffiTUNet
    from overtone.pipelines import DiffiTPipeline
    from overtone.samplers import Sampler

    small = {"resolution": 8, "channels": 1, "widths": (16,), "num_cells": (1,), "head_channels": 8}
    names = tuple(map(str, range(10)))
    network = DiffiTUNet(DiffiTConfig(**small, num_classes=10))
    DiffiTPipeline(
        network, Sampler(num_steps=2), class_names=names, data="builtin:digits"
    ).save_pretrained(place / "digits-model")
    main(["sample", str(place / "digits-model"), "--seeds", "0-15", "--out", str(place / "digits")])
    main(
        ["evaluate", str(place / "digits"), "--data", "builtin:digits", "--resolution", "8",
         "--channels", "1", "--real-images", "64"]
    )  # fmt: skip
    return place


@contextlib.contextmanager
def only(disk, left):
    """The disk with so many bytes of room."""
    filler = disk / "filler"
    free = os.statvfs(disk)
    room = free.f_bavail * free.f_frsize - left
    with filler.open("wb") as file:
        file.write(b"\0" * max(room, 0))
    try:
        yield
    finally:
        filler.unlink()


def contents(disk):
    return {
        path.relative_to(disk): path.read_bytes()
        for path in sorted(disk.rglob("*"))
        if path.is_file() and path.suffix in (".safetensors", ".png", ".bin")
    }


def ends_well(words, capsys):
    """Whether a command ends well; one that does not says that the disk is full, in a line."""
    capsys.readouterr()
    status = 0
    try:
        main(words)
    except SystemExit as stop:
        status = stop.code
    errors = capsys.readouterr().err
    if status:
        assert status == 1
        message = errors[errors.rindex("overtone: ") :]
        assert "free some space" in message
        assert "Traceback" not in errors
        assert len(message.splitlines()) <= 2
    return not status


@pytest.mark.soak
@pytest.mark.parametrize("name", COMMANDS)
def test_each_write_of_each_command_may_find_the_disk_full(name, models, disk, capsys):
    words = COMMANDS[name].format(place=models, disk=disk).split()
    failed = 0
    try:
        for left in LEFT:
            with only(disk, left):
                if ends_well(words, capsys):
                    break
                failed += 1
        assert failed >= 1
        main(words)  # with room, what was interrupted is gone on with
        after = contents(disk)
        assert not [path for path in after if path.name.startswith(".writing-")]
        for path in disk.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        main(words)
        whole = contents(disk)
        assert after.keys() == whole.keys()
        assert all(after[path] == whole[path] for path in whole if path.suffix != ".png")
    finally:
        for path in disk.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sample a grid", "edit", "inspect", "merge", "snr", "evaluate"])
def test_a_full_disk_is_named(name, models, disk, capsys):
    with only(disk, 0):
        assert not ends_well(COMMANDS[name].format(place=models, disk=disk).split(), capsys)
    assert list(disk.iterdir()) == []


@pytest.mark.slow
def test_a_full_cache_is_named(models, disk, capsys, monkeypatch):
    monkeypatch.setenv("OVERTONE_CACHE", str(disk / "cache"))
    words = COMMANDS["evaluate"].format(place=models, disk=models / "elsewhere").split()
    failed = 0
    for left in LEFT:
        with only(disk, left):
            if ends_well(words, capsys):
                break
        failed += 1
    assert failed > 2
    (models / "elsewhere/report.json").unlink()
    shutil.rmtree(disk / "cache")
