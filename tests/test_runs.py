"""A run is known by what it is, not by how it is spelled: it goes on from anywhere."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from overtone import find_recipe, settings, train
from overtone.cli.app import main
from overtone.cli.info_run import curve
from overtone.data.names import absolute
from overtone.errors import OvertoneError
from overtone.pipelines import load_pipeline
from overtone.runs import find_checkpoint, read_log
from overtone.training import rehearsal
from overtone.training.loop import Trainer
from overtone.training.recipes import command_of
from overtone.training.rehearsal import rehearse
from runs import QUICK, changed

LONG = changed(QUICK, total_images=96)
COMMAND = [
    *("--network.widths", "16", "--network.num-cells", "1", "--network.head-channels", "8"),
    *("--batch-size", "32", "--checkpoint-images", "32", "--report-images", "32"),
    *("--held-out-images", "32", "--sampler.num-steps", "2", "--precision", "fp32"),
    *("--lr-rampdown-images", "0"),
]


@pytest.fixture
def images(tmp_path):
    """Two classes of pictures, in a folder with brackets and a percent sign in its name."""
    for number, name in enumerate(("cat", "dog")):
        for i in range(4):
            file = tmp_path / f"my [cats] 100%s/{name}/{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 60 * i + 20 * number).save(file)
    return tmp_path / "my [cats] 100%s"


def test_another_spelling_of_the_data_goes_on(images, tmp_path, monkeypatch):
    monkeypatch.chdir(images.parent)
    monkeypatch.setenv("HOME", str(images.parent))
    (tmp_path / "link").symlink_to(images)
    spellings = [images.name, str(images), f"~/{images.name}", f"./{images.name}/", "link"]
    for number, spelling in enumerate(spellings, 1):
        recipe = changed(QUICK, data=spelling, total_images=32 * number, checkpoint_images=32)
        train(recipe, tmp_path / "run", show=False)
        remembered = json.loads((tmp_path / "run/recipe.json").read_text())["data"]
        assert Path(remembered).is_absolute()
    assert find_checkpoint(tmp_path / "run").name == "000000160"


def test_another_folder_of_that_name_does_not(images, tmp_path, monkeypatch):
    train(changed(QUICK, data=str(images)), tmp_path / "run", show=False)
    elsewhere = tmp_path / "elsewhere" / images.name
    for name in ("cat", "dog"):
        (elsewhere / name).mkdir(parents=True)
        Image.new("L", (8, 8), 99).save(elsewhere / name / "0.png")
    with pytest.raises(OvertoneError, match="was made with other settings \\(images: "):
        train(changed(QUICK, data=str(elsewhere)), tmp_path / "run", show=False)


def test_what_a_run_remembers_does_not_depend_on_where_it_was_begun(images, tmp_path, monkeypatch):
    monkeypatch.chdir(images.parent)
    train(changed(QUICK, data=images.name), "run", show=False)
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    train("../run", show=False)
    train(str(tmp_path / "run/recipe.json"), show=False)
    assert os.listdir(".") == []
    assert find_recipe("../run").data == str(images)


@pytest.mark.parametrize(
    "name", ["runs/mine", "runs/mine/", "runs/mine/recipe.json", "./runs/mine"]
)
def test_a_run_is_gone_on_with_by_its_name(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    main(["train", "diffit-digits", *COMMAND, "--total-images", "32", "--out", "runs/mine"])
    main(["train", name, "--total-images", "64"])
    assert find_checkpoint("runs/mine").name == "000000064"
    assert os.listdir("runs") == ["mine"]
    assert "runs/mine" in capsys.readouterr().out


def test_a_run_may_be_the_directory_that_one_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["train", "diffit-digits", *COMMAND, "--total-images", "32", "--out", "."])
    main(["train", ".", "--total-images", "64"])
    assert find_checkpoint(tmp_path).name == "000000064"
    with pytest.raises(SystemExit):
        main(["sample", ".", "--seeds", "0", "--out", "."])
    assert find_checkpoint(tmp_path).name == "000000064"


def test_a_recipe_file_beside_no_run_is_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["train", "diffit-digits", *COMMAND, "--total-images", "32", "--out", "runs/mine"])
    Path("runs/mine/recipe.json").rename("other.json")
    main(["train", "other.json"])
    assert sorted(os.listdir("runs")) == ["mine", "other"]


def test_the_home_directory_holds_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    main(["train", "diffit-digits", *COMMAND, "--total-images", "32", "--out", "~/runs/mine"])
    assert (tmp_path / "runs/mine/recipe.json").exists()
    main(["train", "~/runs/mine", "--total-images", "64"])
    assert find_checkpoint("~/runs/mine").name == "000000064"
    assert load_pipeline("~/runs/mine").resolution == 8
    main(["sample", "~/runs/mine", "--seeds", "0-1", "--out", "~/pictures/grid.png"])
    assert (tmp_path / "pictures/grid.png").exists()
    main(["info", "~/runs/mine"])
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("changes", "now"),
    [({"micro_batch": 8}, "fp32 on cpu, 8 images"), ({"precision": "bf16"}, "bf16 on cpu, 32")],
)
def test_what_matters_by_rounding_only_may_change_and_is_said(tmp_path, capsys, changes, now):
    train(QUICK, tmp_path / "run", show=False)
    capsys.readouterr()
    train(changed(LONG, **changes), tmp_path / "run")
    said = capsys.readouterr().err
    assert f"resumed with {now}" in said
    assert "at a time, and was computed with fp32 on cpu, 32 images at a time" in said
    assert find_checkpoint(tmp_path / "run").name == "000000096"
    train(changed(LONG, **changes), tmp_path / "run")
    assert "resumed with" not in capsys.readouterr().err


def test_what_matters_more_may_not(tmp_path):
    train(QUICK, tmp_path / "run", show=False)
    for changes in ({"batch_size": 16}, {"lr": 2e-3}, {"seed": 1}, {"clip_norm": 2.0}):
        with pytest.raises(OvertoneError, match="was made with other settings"):
            train(changed(LONG, **changes), tmp_path / "run", show=False)


def test_names_that_are_no_text(tmp_path, capsys, monkeypatch):
    """Bytes that are no UTF-8, and what would change a terminal, from data to a sampled run."""
    monkeypatch.chdir(tmp_path)
    data = os.fsdecode(b"da\xfeta")
    for name in (os.fsdecode(b"cat\xff"), "d\x1b[31mog"):
        for i in range(3):
            file = Path(data, name, f"{i}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 60 * i).save(file)
    run = os.fsdecode(b"ru\xfdn")
    main(["data", "inspect", data, "--out", "sheet.png"])
    main(["train", "diffit-digits", *COMMAND, "--total-images", "32", "--data", data, "--out", run])
    main(["train", run, "--total-images", "64"])
    main(["sample", run, "--seeds", "0-1", "--classes", "cat\\udcff", "--out", "a.png"])
    main(["info", run])
    said = "".join(capsys.readouterr())
    assert "2 classes: cat\\udcff (3), d\\x1b[31mog (3)" in said
    assert "\x1b[31m" not in said
    assert load_pipeline(run).class_names == ("cat\\udcff", "d\x1b[31mog")
    assert json.loads(Path(run, "recipe.json").read_text())["data"] == str(tmp_path / data)
    assert find_checkpoint(run).name == "000000064"


def wait_for(run, images):
    until = time.monotonic() + 60
    while not (run / f"checkpoints/{images:09d}").exists():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT], ids=str)
def test_signals_save_and_say_so_at_once(tmp_path, number):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "overtone", "train", "diffit-digits", *COMMAND]
    command += ["--total-images", "1000000", "--out", str(run)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for(run, 64)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"overtone: {number.name}: finishing the step, then saving a checkpoint." in errors
    assert "Traceback" not in errors
    images = int(find_checkpoint(run).name)
    assert f"interrupted at image {images:,}" in errors
    # The lock is free: the run goes on.
    main(["train", str(run), "--total-images", str(images + 32)])
    assert int(find_checkpoint(run).name) == images + 32


@pytest.mark.slow
def test_a_terminal_that_is_closed_stops_nothing_under_nohup(tmp_path):
    run = tmp_path / "run"
    command = ["nohup", sys.executable, "-m", "overtone", "train", "diffit-digits", *COMMAND]
    command += ["--total-images", "1600", "--out", str(run)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        wait_for(run, 32)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert find_checkpoint(run).name == "000001600"


@pytest.mark.slow
def test_a_run_that_writes_checkpoints_can_be_sampled(tmp_path):
    """With one checkpoint kept, each is deleted as soon as the next one is there."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "overtone", "train", "diffit-digits", *COMMAND]
    command += ["--total-images", "1000000", "--keep", "1", "--out", str(run)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait_for(run, 32)
        try:
            for _ in range(60):
                assert len(load_pipeline(run)([0], class_labels=0)) == 1
        finally:
            process.terminate()
            process.wait(timeout=60)
    assert len(read_log(run)) > 8


def test_a_checkpoint_that_goes_while_it_is_read_is_read_anew(tmp_path, monkeypatch):
    train(QUICK, tmp_path / "run", show=False)
    from overtone.pipelines.pipeline import Pipeline

    read, gone = Pipeline.from_pretrained, []

    def goes(folder):
        if not gone:
            gone.append(folder)
            Trainer.of(changed(LONG, keep=1), show=False).run(tmp_path / "run")
        return read(folder)

    monkeypatch.setattr(Pipeline, "from_pretrained", staticmethod(goes))
    assert load_pipeline(tmp_path / "run").training["images seen"] == 96
    assert not gone[0].exists()


def test_names_that_mean_the_same_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats.parquet").write_bytes(b"")
    assert absolute("cats") == str(tmp_path / "cats")
    assert absolute("hf:cats.parquet?label=kind") == f"hf:{tmp_path}/cats.parquet?label=kind"
    assert absolute("hf:somebody/cats?split=a") == "hf:somebody/cats?split=a"
    assert absolute("builtin:digits") == "builtin:digits"
    assert absolute("somebody/model") == "somebody/model"
    assert absolute("") == ""


def test_files_have_the_permissions_that_the_umask_gives(tmp_path):
    for mask, wanted in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            train(QUICK, tmp_path / f"run-{mask}", show=False)
        finally:
            os.umask(before)
        files = [file for file in (tmp_path / f"run-{mask}").rglob("*") if file.is_file()]
        assert {file.stat().st_mode & 0o777 for file in files} == {wanted}
        assert any(file.suffix == ".safetensors" for file in files)


def test_messages_count_right(tmp_path, capsys):
    train(QUICK, tmp_path / "run", show=False)
    for seeds, said in (("3", "1 image: "), ("0-2", "3 images: ")):
        main(["sample", str(tmp_path / "run"), "--seeds", seeds, "--out", str(tmp_path / "a.png")])
        assert said in capsys.readouterr().err
    # A grid is as wide as its images, and no wider.
    with Image.open(tmp_path / "a.png") as grid:
        layout = json.loads(grid.text["overtone-grid"])  # the names of three digits above them
        assert grid.size == (3 * 9 - 1, layout["header"] + 8)
    with pytest.raises(SystemExit):
        main(["sample", str(tmp_path / "run"), "--seeds", "0-1024", "--out", "a.png"])
    assert "a grid shows 1,024 images at most, and 1,025 are asked for" in capsys.readouterr().err


def test_info_tells_how_a_run_went_and_goes_on(tmp_path, capsys):
    """The command that it prints is the one that goes on, and the picture is one."""
    run = tmp_path / "run"
    train(changed(total_images=256, report_images=32, checkpoint_images=64, keep=9), run)
    main(["info", str(run), "--curve", str(tmp_path / "curve.png")])
    said = capsys.readouterr().out
    assert "images per second: " in said
    assert "best checkpoint: 000000256, by held-out loss" in said
    assert "curve of the loss: " in said
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size[0] > 300
    command = shlex.split(said.split("goes on with: ")[1])
    assert command == ["overtone", "train", str(run), "--total-images", "512"]
    main(command[1:])
    assert find_checkpoint(run).name == "000000512"
    capsys.readouterr()
    main(["info", str(run), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["images seen"], found["of"]) == (512, 512)


def test_a_run_is_gone_on_with_by_the_command_of_its_kind(tmp_path):
    for name, command in (("diffit-digits", "train"), ("dsno-digits", "distill train")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
        recipe = settings.dump(find_recipe(name))
        (tmp_path / name / "recipe.json").write_text(json.dumps(recipe))
        assert command_of(tmp_path / name) == command


def test_bars_rise_and_fall_with_the_values():
    falling = [(images, 2.0**-images) for images in range(8)]
    assert curve(falling) == "█▇▆▅▄▃▂▁"
    assert curve([(images, 1.0) for images in range(3)]) == "▁▁▁"
    assert len(curve([(images, 1.0 + images) for images in range(1000)])) == 48
    assert curve([(0, float("nan")), (1, -1.0)]) == ""


def test_a_run_whose_rate_falls_is_made_longer_by_another(tmp_path, capsys):
    """The error of the first attempt prints the command that works."""
    run = tmp_path / "run"
    train(changed(total_images=128, lr_rampdown_images=64), run)
    with pytest.raises(SystemExit):
        main(["train", str(run), "--total-images", "192"])
    said = capsys.readouterr().err
    assert "the learning rate falls towards the end of a run" in said
    command = shlex.split(said.split("its weights: ")[1])
    assert command[:2] == ["overtone", "train"]
    main(command[1:])
    longer = tmp_path / "run-longer"
    assert find_checkpoint(longer).name == "000000192"
    before = [e["held_out_loss"] for e in read_log(run) if "held_out_loss" in e][-1]
    assert read_log(longer)[0]["held_out_loss"] == pytest.approx(before, rel=1e-6)
    capsys.readouterr()
    main(["info", str(run)])
    assert f"--init {run}" in capsys.readouterr().out


def test_a_dry_run_is_over_in_time_and_tells_the_memory(monkeypatch):
    """On a clock of its own, on which a step takes a second for each 32 images and one more: of a
    batch of 256 images there is time for a part only."""
    recipe = changed(total_images=10**6, batch_size=256)
    trainer = Trainer.of(recipe, show=False)
    sizes = []

    def timed(trainer, model, size, meter):
        sizes.append(size)
        meter.add(torch.tensor(1.0), torch.tensor(1.0))
        return 1 + size / 32

    monkeypatch.setattr(rehearsal, "_timed_step", timed)
    found = rehearse(trainer, limit_s=8)
    assert sizes == [1, 1, 4, 16]
    assert found.tried == 16
    assert found.images_per_second == pytest.approx(16 / 1.5)
    assert found.hours == pytest.approx(10**6 / (16 / 1.5) / 3600)
    sizes.clear()
    whole = rehearse(trainer, limit_s=60)
    assert sizes == [1, 1, 4, 16, 64, 256, 256, 256]
    assert (whole.tried, whole.images_per_second) == (256, pytest.approx(256 / 9))
    assert whole.memory > 2**27
