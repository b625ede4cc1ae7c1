"""Runs whose files were damaged: each damage is named, or undone, and no line of the log is lost.

The run goes on with one option from the checkpoint before, and ends with the same bits.
"""

import json
import shutil

import pytest

from overtone import storage
from overtone.errors import OvertoneError
from overtone.leftovers import TEMPORARY
from overtone.pipelines import load_pipeline
from overtone.runs import LOG_FILE, RECIPE_FILE, checkpoints_of, find_checkpoint, read_log
from overtone.training.loop import Trainer
from runs import QUICK, changed, train, weights_of

FIRST = changed(QUICK, keep=3)
WHOLE = changed(FIRST, total_images=96)
LAST = "checkpoints/000000064"
BEFORE = "checkpoints/000000032"

STATE = [
    "training/weights.safetensors",
    "training/ema.safetensors",
    "training/optimizer.safetensors",
    "training/progress.json",
    "network/model.safetensors",
    "network/config.json",
    "pipeline.json",
]
"""files of a checkpoint"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that stopped at image 64, and the same one that went on to 96."""
    root = tmp_path_factory.mktemp("runs")
    train(FIRST, root / "first")
    shutil.copytree(root / "first", root / "whole")
    train(WHOLE, root / "whole")
    return root


@pytest.fixture
def run(runs, tmp_path):
    shutil.copytree(runs / "first", tmp_path / "run")
    return tmp_path / "run"


# Damages.


def missing(file):
    file.unlink()


def empty(file):
    file.write_bytes(b"")


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-7])


def half(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def one_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def zeros(file):
    file.write_bytes(bytes(file.stat().st_size))


def a_folder(file):
    file.unlink()
    file.mkdir()


DAMAGES = [missing, empty, cut_short, half, one_bit, zeros, a_folder]


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("file", STATE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(runs, run, file, damage):
    damage(run / LAST / file)
    log = (run / LOG_FILE).read_text()
    with pytest.raises(OvertoneError, match="--skip-bad-checkpoints goes on from") as refused:
        train(WHOLE, run)
    named = str(refused.value)
    assert file in named
    assert named.isprintable()
    assert (run / LOG_FILE).read_text() == log
    Trainer.of(WHOLE, show=False).run(run, skip_bad=True)
    assert weights_of(run) == weights_of(runs / "whole")
    seen = [entry["images"] for entry in read_log(run) if "loss" in entry]
    assert seen == [32, 64, 96]
    (aside,) = (run / "checkpoints").glob("000000064.bad-*")
    assert aside.is_dir()
    assert aside not in checkpoints_of(run)


def test_the_best_checkpoint_is_one_that_is_there(run, capsys):
    """Where the last one was the best, and is skipped, the one before does not know of another."""
    one_bit(run / LAST / STATE[0])
    file = run / BEFORE / "training/progress.json"
    known = json.loads(file.read_text()) | {"best_images": 16, "best_value": 0.0}
    file.write_text(json.dumps(known))
    Trainer.of(WHOLE, show=False).run(run, skip_bad=True)
    said = capsys.readouterr().err
    assert "weights.safetensors is damaged" in said
    assert "renamed to 000000064.bad-" in said
    assert int(find_checkpoint(run, "best").name) in (64, 96)


def test_the_card_may_be_written_in(runs, run):
    (run / LAST / "README.md").write_text("My model.")
    train(WHOLE, run)
    assert weights_of(run) == weights_of(runs / "whole")


def test_files_of_another_checkpoint_are_told_apart(run):
    for name in STATE[:3]:
        shutil.copy(run / BEFORE / name, run / LAST / name)
    with pytest.raises(OvertoneError, match=r"ema\.safetensors is damaged|weights\.safetensors is"):
        train(WHOLE, run)
    shutil.copy(run / BEFORE / STATE[3], run / LAST / STATE[3])
    with pytest.raises(OvertoneError, match=r"progress\.json is of image 32, not of 000000064"):
        train(WHOLE, run)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_where_nothing_is_left_it_is_said(run, count):
    """Of three checkpoints (of images 0, 32 and 64) so many are damaged."""
    folders = checkpoints_of(run)
    assert len(folders) == 3
    for folder in folders[-count:]:
        one_bit(folder / STATE[0])
    trainer = Trainer.of(WHOLE, show=False)
    if count == 3:
        with pytest.raises(OvertoneError, match="none of the 3 checkpoints"):
            trainer.run(run, skip_bad=True)
        return
    trainer.run(run, skip_bad=True)
    assert find_checkpoint(run).name == "000000096"


def progress_with(**changes):
    def change(run):
        file = run / LAST / "training/progress.json"
        content = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))

    return change


def text(name, content):
    def change(run):
        (run / name).write_text(content)

    return change


OTHER_VERSIONS = {
    "counters of another version": (progress_with(epochs=3), "unknown key 'epochs'"),
    "a counter that is no number": (progress_with(images="64"), "images"),
    "a counter below 0": (progress_with(images=-64), "images must be at least 0, not -64"),
    "a time that is none": (progress_with(seconds=float("nan")), "seconds"),
    "digests that are none": (progress_with(files=[]), "files"),
    "a digest of a file elsewhere": (progress_with(files={"../../x": "0"}), "x is missing"),
    "counters that are a list": (text(f"{LAST}/{STATE[3]}", "[]"), "holds no JSON dict"),
    "counters of deep JSON": (text(f"{LAST}/{STATE[3]}", "[" * 50_000), "is not valid JSON"),
    "run.json cut short": (text("run.json", '{"netw'), "run.json is not valid JSON"),
    "run.json of a list": (text("run.json", "[1]"), "run.json holds no JSON dict"),
    "run.json of other settings": (text("run.json", '{"a": 1}'), "was made with other settings"),
}


@pytest.mark.parametrize("name", OTHER_VERSIONS)
def test_a_state_of_another_version_is_one_line(run, name):
    change, message = OTHER_VERSIONS[name]
    change(run)
    log = (run / LOG_FILE).read_text()
    with pytest.raises(OvertoneError) as refused:
        train(WHOLE, run)
    assert message in str(refused.value)
    assert str(refused.value).isprintable()
    assert (run / LOG_FILE).read_text() == log


def test_a_run_of_a_version_without_digests_goes_on(runs, run):
    for folder in checkpoints_of(run):
        file = folder / "training/progress.json"
        old = json.loads(file.read_text())
        del old["files"], old["computed"]
        file.write_text(json.dumps(old))
    train(WHOLE, run)
    assert weights_of(run) == weights_of(runs / "whole")


@pytest.mark.parametrize("name", ["weights", "ema", "optimizer"])
def test_a_state_of_another_model_is_one_line(run, name):
    """With the digests of a version that had none."""
    progress_with(files={})(run)
    file = run / LAST / f"training/{name}.safetensors"
    tensors = storage.load_tensors(file)
    first = min(tensors)
    for wrong in ({first: tensors[first][None]}, {"surplus.x": tensors[first].clone()}):
        if name == "optimizer" and first in wrong:
            continue
        storage.save_tensors(file, tensors | wrong)
        with pytest.raises(OvertoneError, match="is of another model: its '") as refused:
            train(WHOLE, run)
        assert str(refused.value).isprintable()


OLD_LINE = '{"step": 3, "lr": 0.1}'
LOGS = {
    "garbage between lines": lambda lines: [lines[0], "no JSON\n", *lines[1:]],
    "lines of another version": lambda lines: [f"{OLD_LINE}\n", *lines],
    "a number and a list": lambda lines: ["3\n", "[1]\n", *lines],
    "a last line cut short": lambda lines: [*lines, '{"images": 96, "lo'],
    "bytes that are no text": lambda lines: [*lines, "\udcff\udcfe\n"],
    "deep JSON": lambda lines: ["[" * 50_000 + "\n", *lines],
    "lines that are to be written again": lambda lines: [*lines, '{"images": 96, "loss": 9.0}\n'],
    "a last line without its end": lambda lines: [*lines[:-1], lines[-1].rstrip("\n")],
    "nothing": lambda lines: [],
}


@pytest.mark.parametrize("name", LOGS)
def test_no_line_of_a_log_is_lost(runs, run, name):
    file = run / LOG_FILE
    lines = file.read_text().splitlines(keepends=True)
    damaged = LOGS[name](lines)
    file.write_bytes("".join(damaged).encode(errors="surrogateescape"))
    train(WHOLE, run)
    after = file.read_text(errors="backslashreplace")
    for line in damaged:
        if '"images": 96' not in line:
            assert line.replace("\udcff\udcfe", "\\xff\\xfe") in after
    assert weights_of(run) == weights_of(runs / "whole")
    losses = [entry["loss"] for entry in read_log(run) if entry["images"] == 96 and "loss" in entry]
    assert losses == [
        e["loss"] for e in read_log(runs / "whole") if e["images"] == 96 and "loss" in e
    ]


def no_log(run):
    (run / LOG_FILE).unlink()


def no_recipe(run):
    (run / RECIPE_FILE).unlink()


def half_a_recipe(run):
    half(run / RECIPE_FILE)


def no_pictures(run):
    shutil.rmtree(run / "grids")


def no_lock(run):
    (run / "lock").unlink()


def leftovers(run):
    """What kills leave: half a checkpoint, half a file."""
    (run / "checkpoints/.writing-000000096-abc").mkdir()
    (run / ".writing-abc-log.jsonl").write_text("{")


RECOVERED = [no_log, no_recipe, half_a_recipe, no_pictures, no_lock, leftovers]


@pytest.mark.parametrize("damage", RECOVERED, ids=lambda damage: damage.__name__)
def test_what_can_be_made_again_is(runs, run, damage):
    damage(run)
    train(WHOLE, run)
    assert weights_of(run) == weights_of(runs / "whole")
    assert (run / RECIPE_FILE).read_text() == (runs / "whole" / RECIPE_FILE).read_text()
    assert (run / "grids/000000064.png").exists()
    assert (run / "grids/000000096.png").exists()
    assert not list(run.rglob(f"{TEMPORARY}*"))


def test_a_picture_that_a_kill_left_out_is_made(runs, run):
    """Also where the run has nothing left to train."""
    picture = run / "grids/000000064.png"
    before = picture.read_bytes()
    picture.unlink()
    train(FIRST, run)
    assert picture.read_bytes() == before
    assert weights_of(run) == weights_of(runs / "first")


def test_a_kill_between_two_renames_leaves_a_model(runs, tmp_path, monkeypatch):
    """Where the system can't give two directories each other's names."""
    import ctypes

    pipe = load_pipeline(runs / "first")
    pipe.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    pipe.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.glob("*.former"))
    (tmp_path / "model").rename(tmp_path / "model.former")  # as far as a kill lets it come
    assert load_pipeline(tmp_path / "model").resolution == pipe.resolution
    pipe.save_pretrained(tmp_path / "model")
    monkeypatch.undo()
    pipe.save_pretrained(tmp_path / "model")
    assert load_pipeline(tmp_path / "model").resolution == pipe.resolution
