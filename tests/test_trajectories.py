"""Trajectories of a teacher: solved, kept in files, found damaged, and told apart."""

import dataclasses
import itertools
import json
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest
import torch
from safetensors import safe_open

from helpers import TINY_ADM
from overtone import storage
from overtone.data.shards import claim
from overtone.data.trajectories import (
    TrajectoriesIndex,
    TrajectoryData,
    checksums,
    fingerprint_of,
    shards_of,
)
from overtone.denoisers import GuidanceSettings
from overtone.errors import OvertoneError
from overtone.networks import ADMUNet
from overtone.pipelines import DiffiTPipeline, MEMEPipeline, RelayPipeline
from overtone.processes import FLOW_TIME, SeededNoise, VPCosineSchedule, from_vp, spaced, to_vp
from overtone.runs import find_checkpoint
from overtone.samplers import Sampler
from overtone.training import collect as collecting
from overtone.training.collect import OnlineTrajectories, collect, index_of, kept_steps, solve
from overtone.training.configs.distillation import DistillationRecipe
from overtone.training.loop import Trainer
from overtone.training.stream import TrainingStream
from overtone.training.teacher import Teacher, teacher_of
from teachers import (
    PROCESS,
    REPORTING,
    TINY,
    a_gaussian,
    a_pipe,
    distilled,
    gaussian_teacher,
    longer,
)


def test_the_frame_of_states_has_unit_variance_and_an_inverse():
    # z = x / sqrt(1 + sigma^2)
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    for sigma, scale in ((0.0, 1.0), (3.0, 10**0.5), (80.0, 6401**0.5)):
        assert torch.allclose(to_vp(x, sigma), x / scale, rtol=1e-12)
        assert torch.allclose(from_vp(x, sigma), x * scale, rtol=1e-12)


def test_times_are_the_solvers_steps_nearest_to_those_asked_for():
    levels = [*VPCosineSchedule().sigma(torch.arange(512, 0, -1) / 512).tolist(), 0.0]
    # The published indices: S - 2 i^2 of 512 steps, and every 128th.
    assert kept_steps(levels, spaced(4, "quad")) == [0, 224, 384, 480, 512]
    assert kept_steps(levels, spaced(4, "uniform")) == [0, 128, 256, 384, 512]
    eighteen = Sampler().sigmas
    own = DistillationRecipe("", num_times=4).times_from(float(FLOW_TIME.t(80.0)))
    kept = kept_steps(eighteen, own)
    angles = np.arctan(eighteen) / np.arctan(80.0)
    for place, share in zip(kept[1:], (9 / 16, 1 / 4, 1 / 16, 0), strict=True):
        assert place == np.abs(angles - share).argmin()
    assert DistillationRecipe("", times=(0.5, 0.0)).times_from(0.9) == (0.5, 0.0)
    with pytest.raises(ValueError, match=r"trajectories begin at t = 0.5, and times come after"):
        kept_steps((1.0, 0.1, 0.0), (0.6, 0.0))
    assert kept_steps(eighteen, [0.0]) == [0, 18]
    assert kept_steps(Sampler(num_steps=3).sigmas, (0.003, 0.002, 0.0)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"2 steps of the solver can't give 3 times"):
        kept_steps(Sampler(num_steps=2).sigmas, (0.5, 0.2, 0.0))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((0.5, 0.6, 0.0), "times fall"),
        ((0.5,), "times fall"),
        ((1.0, 0.0), r"times must be in \[0, 1\), not 1"),
    ],
)
def test_times_that_cannot_be(times, message):
    with pytest.raises(ValueError, match=message):
        DistillationRecipe("", times=times)


def test_the_states_are_those_of_the_closed_form_flow():
    """x(s) = m + V sqrt((e + s^2) / (e + S^2)) V^T (x(S) - m) for a Gaussian."""
    _, mean, covariance = a_gaussian()
    teacher = gaussian_teacher(steps=160)
    sigmas = index_of(TINY, teacher).sigmas
    states, labels = solve(teacher, range(6), sigmas)
    values, basis = torch.linalg.eigh(covariance)
    start = states[:, 0] * (1 + sigmas[0] ** 2) ** 0.5
    for place, sigma in enumerate(sigmas):
        gain = ((values + sigma**2) / (values + sigmas[0] ** 2)).sqrt()
        y = ((start - mean).flatten(1) @ basis * gain) @ basis.T + mean.flatten(1)
        expected = y.view(start.shape) * (1 + sigma**2) ** -0.5
        assert float((states[:, place] - expected).abs().max()) < 2e-3, sigma
    assert torch.equal(labels, torch.zeros(6, dtype=torch.int64))
    assert abs(float(states[:, 0].std()) - 1) < 0.3


def test_they_are_the_pipelines_own_steps(pipe, teacher):
    sigmas = index_of(TINY, teacher).sigmas
    states, labels = solve(teacher, [5, 6, 7], sigmas)
    assert labels.tolist() == [2, 0, 1]
    *_, step = pipe.path([5, 6, 7])
    assert torch.equal(states[:, -1], step.x)
    noise = SeededNoise([5, 6, 7]).normal(states[:, 0])
    assert torch.allclose(states[:, 0], noise * (80 / 6401**0.5), atol=1e-6)


def files(folder):
    return {f.relative_to(folder): f.read_bytes() for f in sorted(folder.rglob("*.*"))}


def small_blocks(monkeypatch, rows=8):
    make = TrajectoriesIndex

    def smaller(**fields):
        return make(**fields | {"block": rows})

    monkeypatch.setattr(collecting, "TrajectoriesIndex", smaller)


def test_a_file_is_a_function_of_the_teacher_and_its_seeds_alone(teacher, tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    whole = collect(TINY, teacher, tmp_path / "whole", show=False)
    assert len(whole) == 24
    for part in ((3, 3), (1, 3)):
        assert collect(TINY, teacher, tmp_path / "parts", part=part, show=False) is None
    assert collect(TINY, teacher, tmp_path / "parts", part=(2, 3), show=False) is not None
    assert files(tmp_path / "whole") == files(tmp_path / "parts")
    assert len(files(tmp_path / "whole")) == 1 + 3 + 1 + 1
    # A kill between files: what is missing is made, the rest is not touched.
    kept = (tmp_path / "parts" / "00000.safetensors").stat().st_mtime_ns
    (tmp_path / "parts" / "00001.safetensors").unlink()
    (tmp_path / "parts" / ".writing-1234-00001.safetensors").write_bytes(b"half")
    collect(TINY, teacher, tmp_path / "parts", show=False)
    (tmp_path / "parts" / ".writing-1234-00001.safetensors").unlink()
    assert files(tmp_path / "whole") == files(tmp_path / "parts")
    assert (tmp_path / "parts" / "00000.safetensors").stat().st_mtime_ns == kept
    states, labels = whole.fetch([3, 17])
    again, own = solve(teacher, [1_000_003, 1_000_017], whole.index.sigmas)
    torch.testing.assert_close(states.float(), again, rtol=2e-3, atol=2e-3)  # fp16, another batch
    assert labels.tolist() == own.tolist()
    held_out = TrajectoryData(tmp_path / "whole" / "test")
    assert held_out.index.first_seed + len(held_out) == whole.index.first_seed


def test_more_may_be_asked_for_later(teacher, tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    collect(dataclasses.replace(TINY, count=12), teacher, tmp_path / "grown", show=False)
    collect(TINY, teacher, tmp_path / "grown", show=False)
    collect(TINY, teacher, tmp_path / "whole", show=False)
    assert files(tmp_path / "grown") == files(tmp_path / "whole")
    with pytest.raises(OvertoneError, match="holds 24 trajectories already: --count can only grow"):
        collect(dataclasses.replace(TINY, count=12), teacher, tmp_path / "grown", show=False)


def test_damage_is_named_and_mended_on_request(teacher, tmp_path, monkeypatch, capsys):
    small_blocks(monkeypatch)
    folder = tmp_path / "kept"
    data = collect(TINY, teacher, folder, show=False)
    whole, file = files(folder), folder / "00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1  # one bit of one state
    file.write_bytes(content)
    data = TrajectoryData(folder)
    data.fetch([0, 23])
    with pytest.raises(OvertoneError, match=r"00001.safetensors, .*, is damaged .*--repair"):
        [data.fetch([i]) for i in range(24)]
    collect(TINY, teacher, folder, show=False)  # which does not read what is there
    assert files(folder) != whole
    collect(TINY, teacher, folder, repair=True, show=False)
    assert "00001.safetensors is damaged: it is made again" in capsys.readouterr().err
    assert files(folder) == whole
    file.write_bytes(content[:-100])
    with pytest.raises(OvertoneError, match=r"00001.safetensors, of 3 files, is damaged"):
        TrajectoryData(folder)
    collect(TINY, teacher, folder, repair=True, show=False)
    assert files(folder) == whole
    file.unlink()
    with pytest.raises(OvertoneError, match=r"00001.safetensors, of 3 files, is missing"):
        TrajectoryData(folder)


def test_trajectories_of_something_else_are_refused(pipe, teacher, tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    folder = tmp_path / "kept"
    collect(TINY, teacher, folder, show=False)
    other = teacher_of(a_pipe(widths=(8, 16)), "other")
    with pytest.raises(OvertoneError, match=r"holds other trajectories \(.*teacher_digest"):
        collect(TINY, other, folder, show=False)
    with pytest.raises(OvertoneError, match=r"holds other trajectories \(.*sigmas"):
        collect(dataclasses.replace(TINY, num_times=2), teacher, folder, show=False)
    guided = teacher_of(pipe, "tiny", guidance_scale=2.0)
    with pytest.raises(OvertoneError, match=r"guidance.scale: 1.0 -> 2.0"):
        collect(TINY, guided, folder, show=False)
    # Files of one mixed into the directory of another.
    collect(dataclasses.replace(TINY, first_seed=500), teacher, tmp_path / "other", show=False)
    stranger = tmp_path / "other" / "00001.safetensors"
    (folder / "00001.safetensors").write_bytes(stranger.read_bytes())
    with pytest.raises(OvertoneError, match=r"00001.safetensors, .* was made with other settings"):
        TrajectoryData(folder)
    with pytest.raises(OvertoneError, match=r"00001.safetensors, .* was made with other settings"):
        collect(TINY, teacher, folder, show=False)


def test_a_refused_collection_writes_nothing(teacher, pipe, tmp_path):
    bare = dataclasses.replace(TINY, held_out=0)
    collect(bare, teacher, tmp_path / "kept", show=False)
    with pytest.raises(OvertoneError, match=r"guidance.scale"):
        collect(TINY, teacher_of(pipe, "tiny", guidance_scale=2.0), tmp_path / "kept", show=False)
    assert not (tmp_path / "kept" / "test").exists()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat.png").touch()
    with pytest.raises(OvertoneError, match="holds other files"):
        collect(TINY, teacher, tmp_path / "pictures", show=False)
    assert [f.name for f in (tmp_path / "pictures").iterdir()] == ["cat.png"]


def test_trajectories_of_other_hardware_are_trained_on(pipe, tmp_path):
    torch.manual_seed(1)
    network = ADMUNet(dataclasses.replace(TINY_ADM, resolution=16, attention_resolutions=(8,)))
    relay = RelayPipeline(network, Sampler(4, truncation_sigma=0.9), process=PROCESS)
    relay.first = DiffiTPipeline(pipe.network, Sampler(num_steps=3))
    relay.precision = relay.first.precision = "fp32"
    recipe = dataclasses.replace(TINY, num_times=2)
    collect(recipe, teacher_of(relay, "relay"), tmp_path / "kept", show=False)
    relay.precision = relay.first.precision = "bf16"
    again = teacher_of(relay, "relay")
    Trainer.of(recipe, teacher=again, folder=tmp_path / "kept", show=False)


def test_too_little_disk_is_said_before_anything_is_solved(teacher, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 0, 1000))
    monkeypatch.setattr(collecting, "solve", lambda *a: pytest.fail("solved"))
    said = r"need 0.0 MB in .*, and 0.0 MB are free: free some space, or take fewer"
    with pytest.raises(OvertoneError, match=said):
        collect(TINY, teacher, tmp_path / "kept", show=False)


def test_size_and_time_are_told(teacher, tmp_path, capsys, monkeypatch):
    ticks = itertools.count()  # a clock that does not depend on what else the machine does
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks) / 100)
    collect(TINY, teacher, tmp_path / "kept")
    said = " ".join(capsys.readouterr().err.split())
    assert "32 trajectories of tiny at 5 times, 0.0 MB about 0 minutes" in said
    assert "32 of 32 trajectories" in said
    index = index_of(TINY, teacher)
    assert index.bytes_each == 5 * 64 * 2 + 16
    size = (tmp_path / "kept" / "00000.safetensors").stat().st_size
    assert 0 < size - 24 * index.bytes_each < 600  # its header


MEMORY = """
import ctypes
import gc
import sys
from pathlib import Path
import torch
from overtone.data.trajectories import TrajectoryData
data = TrajectoryData(Path(sys.argv[1]))
data.fetch(list(range(64)))  # what a first read imports and starts does not grow
def private():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free is given back, and not counted
    return sum(int(l.split()[1]) for l in open("/proc/self/smaps_rollup")
               if l.startswith(("Private_Dirty", "Anonymous")))
first = private()
generator = torch.Generator().manual_seed(0)
for _ in range(200):
    data.fetch(torch.randint(len(data), (64,), generator=generator).tolist())
print(private() - first)
"""


def test_reading_takes_no_memory_that_grows_with_the_data(teacher, tmp_path):
    folder = tmp_path / "many"
    index = dataclasses.replace(
        index_of(dataclasses.replace(TINY, held_out=0), teacher), count=81_920, block=4096
    )
    folder.mkdir()
    storage.write_json(folder / "trajectories.json", dataclasses.asdict(index))
    shards = shards_of(folder, index)
    states = torch.zeros(4096, 5, 1, 8, 8, dtype=torch.float16)
    for number in range(len(shards)):
        states.fill_(number)
        labels = torch.zeros(4096, dtype=torch.int64)
        sums = checksums(states, labels)
        shards.write(number, {"states": states, "labels": labels, "checksums": sums})
    size = sum(f.stat().st_size for f in folder.iterdir()) / 1024
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder)], capture_output=True, text=True, check=True
    )
    assert size > 50_000  # kilobytes on the disk
    assert int(done.stdout) < size / 10


@pytest.mark.slow
def test_online_trajectories_are_the_collected_ones(teacher, kept, tmp_path, monkeypatch):
    online = dataclasses.replace(TINY, online=True)
    trainer = Trainer.of(online, teacher=teacher, folder=None, show=False)
    assert isinstance(trainer.task.data, OnlineTrajectories)
    states, labels = trainer.task.data.fetch(range(24))
    there, own = TrajectoryData(kept).fetch(range(24))
    torch.testing.assert_close(states, there.float(), rtol=2e-3, atol=2e-3)
    assert torch.equal(labels, own)
    assert not trainer.task.held_out.endless  # else its seeds would run into those of training
    assert len(trainer.task.held_out) == 8
    busy = dataclasses.replace(online, reporting=dataclasses.replace(REPORTING, workers=1))
    trainer = Trainer.of(busy, teacher=teacher, folder=None, show=False)
    assert trainer.task.loads_here
    monkeypatch.setattr(TrainingStream, "batches", lambda self, *a, share, workers: [workers])
    assert list(trainer.batches(0)) == [0]
    monkeypatch.undo()
    whole = tmp_path / "whole"
    distilled(online, teacher, None, whole)
    distilled(longer(online, total_images=64), teacher, None, tmp_path / "parts")
    distilled(online, teacher, None, tmp_path / "parts")
    weights = [
        (find_checkpoint(run) / "network/model.safetensors").read_bytes()
        for run in (whole, tmp_path / "parts")
    ]
    assert weights[0] == weights[1]


def test_collecting_evaluates_no_more_than_sampling(pipe, teacher):
    counts = []
    for work in (
        lambda: list(pipe.path([0, 1])),
        lambda: solve(teacher, [0, 1], index_of(TINY, teacher).sigmas),
    ):
        calls = []
        hook = pipe.network.register_forward_hook(lambda *a, calls=calls: calls.append(1))
        work()
        hook.remove()
        counts.append(len(calls))
    assert counts == [11, 11]


def test_checksums_tell_one_bit():
    states = torch.randn(3, 2, 1, 4, 4).half()
    labels = torch.tensor([0, 1, 2])
    sums = checksums(states, labels)
    states.view(torch.int16)[1, 0, 0, 0, 0] ^= 1
    labels[2] = 0
    assert (checksums(states, labels) == sums).tolist() == [True, False, False]


def test_the_index_is_read_strictly(kept):
    index = json.loads((kept / "trajectories.json").read_text())
    assert index["sigmas"][-1] == 0
    with safe_open(kept / "00000.safetensors", "pt") as shard:
        assert shard.get_tensor("states").dtype == torch.float16
        assert len(shard.metadata()["made with"]) == 16


def test_a_part_that_is_done_first_waits_for_the_others(teacher, tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    folder = tmp_path / "kept"
    collect(dataclasses.replace(TINY, count=12), teacher, folder, show=False)
    # The second file, of 4, is to become one of 8, and is the second part's.
    assert collect(TINY, teacher, folder, part=(1, 2), show=False) is None
    assert len(collect(TINY, teacher, folder, part=(2, 2), show=False)) == 24


def test_what_else_trajectories_depend_on_is_in_their_mark(pipe, tmp_path):
    def mark(teacher):
        return fingerprint_of(index_of(TINY, teacher))

    torch.manual_seed(1)
    network = ADMUNet(dataclasses.replace(TINY_ADM, resolution=16, attention_resolutions=(8,)))
    relay = RelayPipeline(network, process=PROCESS, precision="fp32")
    marks = set()
    for scale, steps in ((1.0, 4), (4.0, 4), (1.0, 2)):
        first = DiffiTPipeline(
            pipe.network, Sampler(num_steps=steps), guidance=GuidanceSettings(scale=scale)
        )
        relay.first = first
        marks.add(mark(teacher_of(relay, "relay")))
    relay.precision = "bf16"
    marks.add(mark(teacher_of(relay, "relay")))
    assert len(marks) == 4
    # The same experts with another boundary are another model of the same weights.
    experts = [a_pipe(), a_pipe(widths=(8, 16))]
    merged = [teacher_of(MEMEPipeline.merged(experts, (b,)), "both") for b in (0.1, 5.0)]
    assert merged[0].digest == merged[1].digest
    assert mark(merged[0]) != mark(merged[1])
    # A guidance scale of 2 is one of 2.0.
    assert mark(teacher_of(pipe, "", guidance_scale=2)) == mark(
        teacher_of(pipe, "", guidance_scale=2.0)
    )
    relay.first = torch.zeros(4, 1, 8, 8)
    with pytest.raises(OvertoneError, match="first stage of a teacher is an Overtone model"):
        teacher_of(relay, "relay")


def test_jobs_that_begin_together_share_a_directory(tmp_path):
    """Each writes the index or finds that of another; a hundred times, from eight threads."""
    from concurrent.futures import ThreadPoolExecutor

    index = TrajectoriesIndex("t", "d", {}, (80.0, 0.0), 8, 0, 8, 1)

    def take(number):
        file = tmp_path / str(number // 8) / "trajectories.json"
        claim(file, index, fingerprint_of, "trajectories")
        (file.parent / f"{number:05d}.safetensors").write_bytes(b"")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(take, range(800)))
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "model.safetensors").write_bytes(b"")
    with pytest.raises(OvertoneError, match="holds other files"):
        claim(strange / "trajectories.json", index, fingerprint_of, "trajectories")


def test_an_index_is_written_once_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    assert storage.write_json_once(tmp_path / "a.json", 1)
    assert not storage.write_json_once(tmp_path / "a.json", 2)
    assert storage.read_json(tmp_path / "a.json") == 1
    assert [f.name for f in tmp_path.iterdir()] == ["a.json"]


def test_files_of_large_images_hold_fewer(teacher):
    assert index_of(TINY, teacher).block == 1024

    class Large(Teacher):
        channels, resolution = 3, 256

    class Huge(Large):
        resolution = 2048

    assert index_of(TINY, Large("", teacher.pipe)).block == 128
    assert index_of(TINY, Huge("", teacher.pipe)).block == 64
