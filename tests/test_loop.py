"""The training loop: its steps, its checkpoints, and runs that stop, die or are refused."""

import dataclasses
import errno
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from overtone import storage
from overtone.errors import OvertoneError
from overtone.leftovers import TEMPORARY
from overtone.pipelines import DiffiTPipeline, load_pipeline
from overtone.pipelines.pictures import pixels_of
from overtone.pipelines.receipt_files import read_receipt
from overtone.pipelines.replay import Replayer
from overtone.pipelines.seeds import seeds_of
from overtone.pipelines.sheets import KEY, layout_in
from overtone.runs import checkpoints_of, find_checkpoint, read_log
from overtone.training.loop import Trainer
from overtone.training.rundir import RunDirectory
from runs import TINY, changed, train, weights_of


def test_learning_rate_ramps_up_and_down():
    trainer = Trainer.of(changed(lr_rampdown_images=96), show=False)
    rates = [trainer._lr(n) for n in range(32, 257, 32)]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 2e-3 / 3, 1e-3 / 3])


def test_learning_rate_is_halved_at_milestones():
    trainer = Trainer.of(changed(lr_halved_images=(96, 160)), show=False)
    rates = [trainer._lr(n) for n in range(32, 257, 32)]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4, 2.5e-4])


def test_one_autocast_around_micro_batches_changes_no_gradient(monkeypatch):
    """Each micro-batch in an autocast of its own, which casts the weights anew, gives the bits."""
    plan = changed(network=dataclasses.replace(TINY.network, dropout=0.0), batch_size=32)
    trainer = Trainer.of(changed(plan, micro_batch=8, precision="bf16"), show=False)
    batch = next(trainer.batches(0))
    with torch.no_grad():  # a network that begins with zeros has few gradients
        for parameter in trainer.model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    for at in range(0, 32, 8):
        micro = {name: tensor[at : at + 8] for name, tensor in batch.items()}
        with torch.autocast("cpu", torch.bfloat16):
            loss = trainer.objective.loss(trainer.model, micro).sum() / 32
        loss.backward()
    plain = [parameter.grad for parameter in trainer.model.parameters()]
    trainer.optimizer.zero_grad(set_to_none=True)
    taken = []

    def step(optimizer, limit):
        taken.extend(p.grad for group in optimizer.param_groups for p in group["params"])
        return torch.zeros(())

    monkeypatch.setattr("overtone.training.loop.step_clipped", step)
    trainer.step(trainer.model, batch)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in plain) > 10
    for one, other in zip(plain, taken, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_accumulation_gives_the_same_weights():
    recipe = changed(network=dataclasses.replace(TINY.network, dropout=0.0), batch_size=32)
    whole = Trainer.of(recipe, show=False)
    parts = Trainer.of(changed(recipe, micro_batch=8), show=False)
    taken = []
    for trainer in (whole, parts):
        batches = trainer.batches(0)
        for _ in range(3):
            taken.append(trainer.step(trainer.model, next(batches)))
            trainer.progress.images += 32
    for (loss, norm), (other_loss, other_norm) in zip(taken[:3], taken[3:], strict=True):
        assert torch.allclose(loss, other_loss, rtol=1e-5)
        assert torch.allclose(norm, other_norm, rtol=1e-4)  # a wrong scale of the parts shows here
    other = dict(parts.model.named_parameters())
    for name, parameter in whole.model.named_parameters():
        # Adam's first steps divide by the gradient's own size: compare to a share of the step.
        assert torch.allclose(parameter, other[name], atol=1e-4), name


def test_gradients_are_clipped():
    trainer = Trainer.of(changed(clip_norm=1e-6), show=False)
    before = [p.clone() for p in trainer.model.parameters()]
    _, norm = trainer.step(trainer.model, next(trainer.batches(0)))
    assert float(norm) > 1e-3
    grads = [state["exp_avg"] for state in trainer.optimizer.state.values()]
    total = math.sqrt(sum(float(g.square().sum()) for g in grads)) / 0.1
    assert total == pytest.approx(1e-6, rel=1e-2)
    assert any(
        not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)
    )


@pytest.mark.slow
def test_a_run_leaves_log_grids_and_checkpoints(tmp_path):
    trainer = train(TINY, tmp_path / "run")
    log = read_log(tmp_path / "run")
    assert [e["images"] for e in log if "loss" in e] == [64, 128, 192, 256]
    assert {"loss", "grad_norm", "images_per_second", "lr", "seconds"} <= set(log[1])
    held_out = {e["images"]: e["held_out_loss"] for e in log if "held_out_loss" in e}
    assert list(held_out) == [0, 128, 256]
    assert [g.name for g in sorted((tmp_path / "run" / "grids").iterdir())] == [
        "000000128.png",
        "000000256.png",
    ]
    receipt = read_receipt(tmp_path / "run" / "grids" / "000000256.png")
    replayer = Replayer(load_pipeline(find_checkpoint(tmp_path / "run")), receipt)
    with Image.open(tmp_path / "run" / "grids" / "000000256.png") as grid:
        box = layout_in(grid.info[KEY], 8, grid.width).box(0, 8, 8)
        first = pixels_of([grid.crop(box)], 1)[0]
    assert replayer.of(seeds_of(receipt.seeds)[0], first).succeeded
    best = min(held_out, key=held_out.get)
    assert {int(c.name) for c in checkpoints_of(tmp_path / "run")} == {best, 256}
    assert find_checkpoint(tmp_path / "run", "best").name == f"{best:09d}"
    assert trainer.progress.best_value == held_out[best]
    pipe = load_pipeline(find_checkpoint(tmp_path / "run"))
    assert isinstance(pipe, DiffiTPipeline)
    ema = trainer.ema.module.network.state_dict()
    assert all(torch.equal(t, ema[n]) for n, t in pipe.network.state_dict().items())
    # A run's directory, by text or path, is its last checkpoint, or the best one.
    run = str(tmp_path / "run")
    assert find_checkpoint(run) == find_checkpoint(tmp_path / "run")
    for name in (run, tmp_path / "run"):
        opened = load_pipeline(name)
        assert all(torch.equal(t, ema[n]) for n, t in opened.network.state_dict().items())
    best_weights = load_pipeline(find_checkpoint(run, "best")).network.state_dict()
    opened = load_pipeline(run, checkpoint="best")
    assert all(torch.equal(t, best_weights[n]) for n, t in opened.network.state_dict().items())
    with pytest.raises(OvertoneError, match="none called 'worst'"):
        load_pipeline(run, checkpoint="worst")
    with pytest.raises(OvertoneError, match="has no checkpoint yet"):
        find_checkpoint(str(tmp_path))
    with pytest.raises(OvertoneError, match="no run: it has no best checkpoint to choose"):
        load_pipeline(find_checkpoint(run), checkpoint="best")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"micro_batch": 8}, {"workers": 2}], ids=str)
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, changes):
    train(changed(**changes), tmp_path / "whole")
    train(changed(**changes, total_images=128), tmp_path / "parts")
    # A longer run of the same settings goes on; half a line of log is what a kill leaves.
    with (tmp_path / "parts" / "log.jsonl").open("a") as file:
        file.write('{"images": 160, "loss": 1.0}\n{"ima')
    train(changed(**changes), tmp_path / "parts")
    assert weights_of(tmp_path / "whole") == weights_of(tmp_path / "parts")
    seen = [e["images"] for e in read_log(tmp_path / "parts") if "loss" in e]
    assert seen == [64, 128, 192, 256]


COMMAND = [
    sys.executable, "-m", "overtone", "train", "diffit-digits", "--network.widths", "16",
    "--network.num-cells", "1", "--network.head-channels", "8", "--network.token-width", "16",
    "--network.dropout", "0.1", "--total-images", "8192", "--lr-rampdown-images", "512",
    "--batch-size", "64", "--report-images", "128", "--checkpoint-images", "512",
    "--held-out-images", "64", "--precision", "fp32",
]  # fmt: skip


# `overtone`, which kills itself -9 at the n-th thing that it does to files of its run. Counted in
# acts rather than in time, the kills fall in the same places on any machine.
KILLED = """
import os, signal, sys
left, out = int(sys.argv[1]), sys.argv[2]
ACTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}
def count(event, arguments):
    global left
    if event in ACTS and out in str(arguments[0]):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
from overtone.cli.app import main
main([*sys.argv[3:], "--out", out])
"""


@pytest.mark.soak
def test_killed_at_any_moment_a_run_ends_with_the_same_bits(tmp_path):
    """kill -9 at moments spread over the run, in the middle of checkpoints too, then to the end."""
    subprocess.run([*COMMAND, "--out", tmp_path / "whole"], check=True, capture_output=True)
    out = tmp_path / "killed"
    # Before anything stands; in the first checkpoint; then at other places of writes and deletions.
    for acts in (3, 50, 122, 208, 300):
        command = [sys.executable, "-c", KILLED, str(acts), str(out), *COMMAND[3:]]
        process = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert process.returncode == -signal.SIGKILL
    assert 0 < int(find_checkpoint(out).name) < 8192
    subprocess.run([*COMMAND, "--out", out], check=True, capture_output=True)
    assert weights_of(tmp_path / "whole") == weights_of(out)
    assert not list(out.rglob(f"{TEMPORARY}*"))
    whole, killed = (
        [(e["images"], e.get("loss"), e.get("held_out_loss")) for e in read_log(run)]
        for run in (tmp_path / "whole", out)
    )
    assert whole == killed


@pytest.mark.slow
def test_a_run_that_died_before_its_second_checkpoint_goes_on(tmp_path, monkeypatch):
    train(TINY, tmp_path / "whole")

    def dies(*_):
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr(Trainer, "step", dies)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            train(TINY, tmp_path / "run")
    assert find_checkpoint(tmp_path / "run").name == "000000000"
    (tmp_path / "run" / "checkpoints" / "000000000.bak").mkdir()
    monkeypatch.undo()
    train(TINY, tmp_path / "run")
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")
    logs = [
        [(e["images"], e.get("loss")) for e in read_log(tmp_path / r)] for r in ("run", "whole")
    ]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    command = [*COMMAND, "--out", tmp_path / "run", "--total-images", "1000000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "checkpoints" / "000000512").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "goes on from there.\n  overtone train diffit-digits" in errors
    images = int(find_checkpoint(tmp_path / "run").name)
    assert f"interrupted at image {images:,}" in errors
    assert images > 512


@pytest.mark.slow
def test_other_settings_are_refused_by_name(tmp_path):
    train(changed(total_images=32), tmp_path / "run")
    with pytest.raises(OvertoneError, match=r"training\.lr: 0\.001 -> 0\.002"):
        train(changed(total_images=32, lr=2e-3), tmp_path / "run")
    with pytest.raises(OvertoneError, match=r"network\.window: 4 -> 2"):
        train(changed(network=dataclasses.replace(TINY.network, window=2)), tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(OvertoneError, match="not empty and not a run"):
        train(TINY, tmp_path / "other")
    assert (tmp_path / "other" / "thesis.tex").read_text() == "mine"


def test_other_images_are_refused(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        Image.new("L", (8, 8), 80 * i).save(folder / f"{i}.png")
    recipe = changed(data=str(folder), class_conditional=False, total_images=32)
    train(recipe, tmp_path / "run")
    Image.new("L", (8, 8), 7).save(folder / "3.png")
    with pytest.raises(OvertoneError, match="images: "):
        train(recipe, tmp_path / "run")
    # And the loss of a folder without a test split is not called held out.
    assert "averaged_loss" in read_log(tmp_path / "run")[0]


def test_splits_with_other_classes_are_refused(tmp_path):
    for place in ("train/a", "train/b", "test/b"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / place / "0.png")
    with pytest.raises(OvertoneError, match="classes of the test split"):
        Trainer.of(changed(data=str(tmp_path)), show=False)


def test_a_run_killed_before_its_first_file_was_whole_starts_again(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / f"{TEMPORARY}1234-run.json").write_text("{")
    (run / "lock").touch()
    train(changed(total_images=32), run)
    assert not list(run.glob(f"{TEMPORARY}*"))


def test_two_processes_do_not_train_in_one_directory(tmp_path):
    with (
        RunDirectory(tmp_path / "run", {}),
        pytest.raises(OvertoneError, match="another process is training"),
        RunDirectory(tmp_path / "run", {}),
    ):
        pass
    with RunDirectory(tmp_path / "run", {}):
        pass


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    recipe = changed(total_images=512, report_images=256)
    trainer = Trainer.of(recipe, show=False)
    trainer.objective = _Poisoned(trainer, 160)
    with pytest.raises(OvertoneError, match=r"not finite .* step of image 192.* --lr"):
        trainer.run(tmp_path / "run")
    good = find_checkpoint(tmp_path / "run")
    assert good.name == "000000128"
    tensors = storage.load_tensors(good / "training" / "weights.safetensors")
    assert all(bool(t.isfinite().all()) for t in tensors.values())


class _Poisoned:
    """The trainer's objective, with a loss of NaN in training from some image on."""

    def __init__(self, trainer, start):
        self.trainer, self.inner, self.start = trainer, trainer.stream.objective, start
        self.draw, self.needs_average = self.inner.draw, False

    def loss(self, model, batch):
        bad = model.training and self.trainer.progress.images >= self.start
        return self.inner.loss(model, batch) * (float("nan") if bad else 1.0)


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_half_written(tmp_path, monkeypatch):
    train(changed(total_images=128), tmp_path / "run")
    before = weights_of(tmp_path / "run")

    def full(path, tensors):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage, "save_tensors", full)
    with pytest.raises(OvertoneError, match=r"000000256.*No space left on device"):
        train(TINY, tmp_path / "run")
    assert weights_of(tmp_path / "run") == before
    assert not list((tmp_path / "run").rglob(f"{TEMPORARY}*"))


def test_a_full_disk_at_the_log_is_explained_too(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with pytest.raises(OvertoneError, match="No space left on device"):
        storage.append_line(Path("/dev/full"), "x" * 10_000)


def test_a_directory_that_can_not_be_made_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OvertoneError, match="can't write to"):
        train(TINY, tmp_path / "file" / "run")
    with pytest.raises(OvertoneError, match="could not write"):
        storage.write_json(tmp_path / "file" / "a.json", 1)


def test_a_real_write_error_is_explained(tmp_path):
    """The kernel refuses to let a file grow: what a full disk or a quota does."""
    script = f"""
import resource, signal, torch
from pathlib import Path
from overtone import storage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with storage.new_directory(Path({str(tmp_path / "model")!r})) as folder:
        storage.save_tensors(folder / "model.safetensors", {{"w": torch.zeros(10_000)}})
except storage.OvertoneError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "could not write" in out.stdout
    assert "Nothing half-written" in out.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_named(tmp_path):
    train(changed(total_images=32), tmp_path / "run")
    file = find_checkpoint(tmp_path / "run") / "training" / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(OvertoneError, match=r"ema\.safetensors is damaged or was cut short"):
        train(changed(total_images=64), tmp_path / "run")


def test_a_dry_run_writes_nothing(tmp_path, monkeypatch, capsys):
    from overtone.cli.app import main

    monkeypatch.chdir(tmp_path)
    main([*COMMAND[3:], "--dry-run"])
    assert "images/s" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
