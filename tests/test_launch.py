"""The same commands in one process and in two: same losses, same images, same numbers."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import TINY_DIFFIT, tiny_vae
from overtone.errors import OvertoneError
from overtone.launch import ALONE, Processes, lost_connection, processes
from overtone.networks import DiffiTUNet
from overtone.pipelines import DiffiTPipeline
from overtone.runs import find_checkpoint, read_log
from overtone.samplers import Sampler

TRAIN = [
    "train", "diffit-digits", "--network.widths", "16", "--network.num-cells", "1",
    "--network.head-channels", "8", "--network.token-width", "16", "--total-images", "3200",
    "--lr-rampup-images", "640", "--batch-size", "64", "--report-images", "64",
    "--checkpoint-images", "1600", "--held-out-images", "64", "--precision", "fp32",
]  # fmt: skip
PYTHON = [sys.executable, "-m", "overtone"]
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",  # a free port: other tests run at the same time
    "--nproc-per-node",
    "2",
    "-m",
    "overtone",
]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "-m", "overtone"]


def run(launcher, *arguments, **variables):
    command = [*launcher, *map(str, arguments)]
    environment = os.environ | variables
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A short run of one process."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    run(PYTHON, *TRAIN, "--out", out)
    return out


def losses(out):
    return [entry["loss"] for entry in read_log(out) if "loss" in entry]


@pytest.mark.slow
def test_two_processes_encode_what_one_does(tmp_path):
    """Three files of latents, shared out: each byte as one process writes it. All with one thread,
    as torchrun has it: sums over another number of threads round in another order."""
    (tmp_path / "vae").mkdir()
    tiny_vae().write_into(tmp_path / "vae")
    encode = ["data", "encode", "builtin:glyphs", "--vae", tmp_path / "vae", "--resolution", "16"]
    for launcher, name in ((PYTHON, "one"), (TORCHRUN, "two")):
        out = ["--images", "2500", "--out", tmp_path / name]
        run(launcher, *encode, *out, OMP_NUM_THREADS="1")
    files = sorted(f.relative_to(tmp_path / "one") for f in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 4 + 4  # each split's index and three files
    for file in files:
        one, two = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
        assert one == two, file


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [TORCHRUN, ACCELERATE], ids=["torchrun, two", "accelerate, one on a CPU"]
)
def test_the_losses_are_those_of_one_process(alone, tmp_path, launcher):
    """50 steps of the same global batch in float32: equal within 1e-4, step by step."""
    done = run(launcher, *TRAIN, "--out", tmp_path / "run")
    assert ("2 processes on cpu" in done.stderr) == (launcher is TORCHRUN)
    one, two = losses(alone), losses(tmp_path / "run")
    assert len(one) == len(two) == 50
    assert max(abs(b / a - 1) for a, b in zip(one, two, strict=True)) < 1e-4
    held_out = [
        [e["held_out_loss"] for e in read_log(out) if "held_out_loss" in e]
        for out in (alone, tmp_path / "run")
    ]
    assert held_out[0] == pytest.approx(held_out[1], rel=1e-4)


@pytest.mark.slow
def test_two_processes_accumulate_micro_batches_too(alone, tmp_path):
    run(TORCHRUN, *TRAIN, "--micro-batch", "16", "--out", tmp_path / "run")
    both = zip(losses(alone), losses(tmp_path / "run"), strict=True)
    assert max(abs(b / a - 1) for a, b in both) < 1e-4


@pytest.mark.slow
def test_a_sharded_model_trains_as_a_whole_one_and_goes_on_as_one(alone, tmp_path):
    """Half of the run sharded over two processes by FSDP, the other half in one process."""
    sharded = [*TORCHRUN[:-2], str(Path(__file__).with_name("sharded.py"))]
    half = ["--lr-rampdown-images", "0", "--out", tmp_path / "run"]
    run(sharded, *TRAIN, "--total-images", "1600", *half)
    run(PYTHON, *TRAIN, *half)
    whole = tmp_path / "whole"
    run(PYTHON, *TRAIN, "--lr-rampdown-images", "0", "--out", whole)
    both = zip(losses(whole), losses(tmp_path / "run"), strict=True)
    assert max(abs(b / a - 1) for a, b in both) < 1e-4
    # And back: what one process saved is sharded again.
    run(sharded, *TRAIN, "--total-images", "3840", *half)
    assert int(find_checkpoint(tmp_path / "run").name) == 3840


@pytest.mark.slow
def test_two_processes_make_the_images_of_one(alone, tmp_path):
    for launcher, name in ((PYTHON, "one"), (TORCHRUN, "two")):
        run(launcher, "sample", alone, "--seeds", "0-20", "--steps", "4", "--out", tmp_path / name)
    one, two = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    names = [f"{k:06d}-{k % 10}.png" for k in range(21)]
    assert [f.name for f in one] == [f.name for f in two] == names
    sheets = [Image.open(tmp_path / f"{name}.png") for name in ("one", "two")]
    # Noise is bit-equal; products of other batch sizes round to within one grey level.
    assert np.abs(np.int16(sheets[0]) - np.int16(sheets[1])).max() <= 1


@pytest.mark.slow
def test_two_processes_evaluate_as_one(alone, tmp_path):
    for launcher, name in ((PYTHON, "one"), (TORCHRUN, "two")):
        arguments = ["--seeds", "0-40", "--steps", "4", "--out", tmp_path / f"{name}.json"]
        run(launcher, "evaluate", alone, *arguments)
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one["images"] == two["images"] == 41
    # A report says how many processes made it, and with how many threads each.
    assert [report["made_with"].pop("processes") for report in (one, two)] == [1, 2]
    assert all(report["made_with"]["environment"].pop("threads") for report in (one, two))
    for kind in ("intervals", "biases"):
        own, other = (report.pop(kind) for report in (one, two))
        for name, value in own.items():
            assert other[name] == pytest.approx(value, rel=5e-2, abs=5e-3), name
    for key, value in one.items():
        if isinstance(value, float):
            assert two[key] == pytest.approx(value, rel=1e-2, abs=1e-3), key
        else:
            assert two[key] == value, key


@pytest.mark.slow
def test_noise_is_bit_equal_in_any_process(tmp_path):
    script = tmp_path / "noise.py"
    script.write_text(
        "import sys, torch\n"
        "from overtone import SeededNoise\n"
        "from overtone.launch import finish, processes\n"
        "among = processes()\n"
        "mine = list(among.share(range(7)))\n"
        "noise = SeededNoise(mine).normal(torch.empty(len(mine), 3, 8, 8))\n"
        "torch.save(dict(zip(mine, noise)), f'{sys.argv[1]}-{among.index}.pt')\n"
        "finish()\n"
    )
    launcher = TORCHRUN[:-2]
    for name, start in (("one", [sys.executable]), ("two", launcher)):
        run(start, script, tmp_path / name)
    whole = torch.load(tmp_path / "one-0.pt")
    shares = [torch.load(tmp_path / f"two-{index}.pt") for index in (0, 1)]
    assert [list(share) for share in shares] == [[0, 2, 4, 6], [1, 3, 5]]
    for share in shares:
        for seed, noise in share.items():
            assert torch.equal(noise, whole[seed])


@pytest.mark.slow
def test_a_process_that_dies_stops_the_job_with_a_word_and_it_resumes(tmp_path):
    out, whole = tmp_path / "run", tmp_path / "whole"
    train = [*TRAIN, "--lr-rampdown-images", "0", "--checkpoint-images", "320"]
    # As long as no machine is fast enough for; with a constant rate it may be cut short later.
    command = [*TORCHRUN, *train, "--total-images", "32000000", "--out", str(out)]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (out / "checkpoints" / "000000320").exists():
        assert job.poll() is None
        time.sleep(0.01)
    victim = next(pid for pid in children(job.pid) if environment(pid).get("RANK") == "1")
    os.kill(victim, signal.SIGKILL)
    _, errors = job.communicate(timeout=120)
    assert job.returncode != 0
    assert re.search(r"overtone: process 0 of 2 lost its connection .* one of them died", errors)
    assert "The same command goes on from the last checkpoint" in errors
    stopped = int(find_checkpoint(out).name)
    total = ["--total-images", str(stopped + 640)]
    run(TORCHRUN, *train, *total, "--out", out)
    run(PYTHON, *train, *total, "--out", whole)
    both = zip(losses(whole), losses(out), strict=True)
    assert max(abs(b / a - 1) for a, b in both) < 1e-4


def children(parent):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True)
    return [int(pid) for pid in found.stdout.split()]


def environment(pid):
    pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(pair.decode().split("=", 1) for pair in pairs if b"=" in pair)


@pytest.mark.slow
def test_a_mistake_is_answered_once_and_no_process_hangs(alone, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    command = [*TORCHRUN, *TRAIN, "--out", str(tmp_path / "taken")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr.count("is not empty and not a run") == 1
    assert "Traceback" not in done.stderr.split("torch/distributed/elastic")[0]
    command = [*TORCHRUN, "sample", str(alone), "--seeds", "0", "--out", str(tmp_path / "one")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "1 seed is too few for 2 processes" in done.stderr
    assert not (tmp_path / "one").exists()


@pytest.mark.slow
def test_two_processes_share_a_data_set_that_one_reads(tmp_path):
    for k in range(8):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("L", (8, 8), 30 * k).save(tmp_path / "images" / f"{k}.png")
    command = [*TRAIN, "--data", tmp_path / "images", "--no-class-conditional"]
    command += ["--label-dropout", "0", "--total-images", "128"]
    environment = os.environ | {"OVERTONE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [*TORCHRUN, *map(str, command), "--out", str(tmp_path / "run")],
        capture_output=True, text=True, timeout=120, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 1


@pytest.mark.slow
def test_batches_that_do_not_divide_are_refused(tmp_path):
    command = [*TORCHRUN, *TRAIN, "--batch-size", "63", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "--batch-size 63 does not divide among 2 processes" in done.stderr


def test_one_process_is_alone():
    assert processes() == ALONE
    assert ALONE.share(range(5)) == range(5)
    assert ALONE.gather("a") == ["a"]
    assert not ALONE.any(False)
    assert list(Processes(1, 3).share(range(7))) == [1, 4]


def test_processes_that_did_not_find_each_other_are_refused(monkeypatch):
    class Single:
        num_processes, process_index = 1, 0

    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr("overtone.launch._state", Single)
    with pytest.raises(OvertoneError, match="started 4 processes, of which 1 found"):
        processes()


def test_only_a_lost_peer_is_a_lost_connection():
    assert lost_connection(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by"))
    assert lost_connection(torch.distributed.DistNetworkError("reset"))
    assert not lost_connection(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.slow
def test_processes_share_the_experts_and_one_that_fails_leaves_the_others_alone(tmp_path):
    command = [
        "train", "meme-digits", "--network.widths", "16", "16", "--network.embedding-width", "16",
        "--total-images", "640", "--lr-rampup-images", "64", "--lr-rampdown-images", "64",
        "--batch-size", "64", "--report-images", "320", "--checkpoint-images", "640",
        "--held-out-images", "64", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    stranger = tmp_path / "run" / "expert-2" / "stranger"
    run(PYTHON, *command, "--expert", "1")
    stranger.parent.mkdir()
    stranger.write_text("not a run")
    failed = subprocess.run([*TORCHRUN, *command], cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode == 1, failed.stderr
    assert "expert 2 stopped: " in failed.stderr, failed.stderr
    assert "not empty and not a run" in failed.stderr, failed.stderr
    for expert in (1, 3, 4):
        last = find_checkpoint(tmp_path / f"run/expert-{expert}")
        assert last.name == "000000640", failed.stderr
    stranger.unlink()
    done = subprocess.run([*TORCHRUN, *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "4 experts: " in done.stdout
    assert find_checkpoint(tmp_path / "run") == tmp_path / "run" / "merged"
    apart = [*TORCHRUN, *command, "--expert", "2"]
    refused = subprocess.run(apart, cwd=tmp_path, capture_output=True, text=True)
    assert "--expert trains in one process" in refused.stderr


@pytest.mark.slow
def test_two_processes_collect_what_one_does(tmp_path):
    """Trajectories in two files, shared out: each byte as one process writes it."""
    DiffiTPipeline(DiffiTUNet(TINY_DIFFIT), Sampler(num_steps=4)).save_pretrained(
        tmp_path / "model"
    )
    words = ["distill", "collect", "dsno-digits", "--teacher", tmp_path / "model"]
    words += ["--guidance-scale", "1", "--count", "1100", "--num-times", "2"]
    for launcher, name in ((PYTHON, "one"), (TORCHRUN, "two")):
        run(launcher, *words, "--out", tmp_path / name, OMP_NUM_THREADS="1")
    files = sorted(f.relative_to(tmp_path / "one") for f in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 1 + 2 + 1 + 1
    for file in files:
        one, two = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
        assert one == two, file


@pytest.mark.soak
def test_a_collection_killed_at_any_moment_goes_on(tmp_path):
    DiffiTPipeline(DiffiTUNet(TINY_DIFFIT), Sampler(num_steps=4)).save_pretrained(
        tmp_path / "model"
    )
    words = ["distill", "collect", "dsno-digits", "--teacher", str(tmp_path / "model")]
    words += ["--guidance-scale", "1", "--count", "4000", "--num-times", "2"]
    run(PYTHON, *words, "--out", tmp_path / "whole", OMP_NUM_THREADS="1")
    for wait in (4.0, 6.0, 5.0):
        command = [*PYTHON, *words, "--out", str(tmp_path / "parts")]
        job = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
        time.sleep(wait)
        job.kill()
        job.wait()
    run(PYTHON, *words, "--out", tmp_path / "parts", OMP_NUM_THREADS="1")
    whole = {f.name: f.read_bytes() for f in (tmp_path / "whole").glob("*.safetensors")}
    assert len(whole) == 4
    for name, content in whole.items():
        assert (tmp_path / "parts" / name).read_bytes() == content
