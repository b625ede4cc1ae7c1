"""From a teacher's trajectories to an operator that makes images in one evaluation."""

import copy
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

from helpers import TINY_ADM, TINY_DIFFIT, TINY_TRANSFORMER, Golden, awake
from overtone import storage
from overtone.analysis.trajectories import compared
from overtone.cli.app import main
from overtone.data.shards import claim
from overtone.data.trajectories import (
    TrajectoriesIndex,
    TrajectoryData,
    checksums,
    fingerprint_of,
    shards_of,
)
from overtone.denoisers import (
    ADM_DIFFUSION,
    EDMPreconditioning,
    GuidanceSettings,
    IdealDenoiser,
    OperatorPreconditioning,
    Preconditioning,
    SolutionOperator,
    VPPreconditioning,
)
from overtone.errors import OvertoneError
from overtone.networks import (
    ADMUNet,
    DiffiTTransformer,
    DiffiTUNet,
    DiffusersNetwork,
    DSNOConfig,
    DSNOUNet,
    Experts,
    Network,
    NetworkConfig,
    temporalize,
)
from overtone.pipelines import (
    DiffiTPipeline,
    DSNOPipeline,
    LatentDiffiTPipeline,
    MEMEPipeline,
    Pipeline,
    RelayPipeline,
    Request,
    load_pipeline,
)
from overtone.processes import (
    FLOW_TIME,
    QuantileSchedule,
    RelayProcess,
    SeededNoise,
    VPCosineSchedule,
    spaced,
)
from overtone.runs import find_checkpoint, read_log
from overtone.samplers import AncestralSampler, OperatorSampler, Sampler
from overtone.training import collect as collecting
from overtone.training.collect import OnlineTrajectories, collect, index_of, kept_steps, solve
from overtone.training.configs.distillation import DistillationRecipe
from overtone.training.configs.training import Reporting, Training
from overtone.training.distill import (
    TrajectoryObjective,
    student_of,
    weights_of,
)
from overtone.training.loop import Trainer
from overtone.training.stream import TrainingStream
from overtone.training.teacher import Teacher, open_teacher, teacher_of

TRAINING = Training(
    total_images=192,
    batch_size=32,
    lr=1e-3,
    lr_rampup_images=64,
    ema_halflife_images=100,
    precision="fp32",
)
REPORTING = Reporting(report_images=64, checkpoint_images=64, held_out_images=16, keep=1)
TINY = DistillationRecipe(
    about="",
    count=24,
    held_out=8,
    training=TRAINING,
    reporting=REPORTING,
)


def a_pipe(kind=DiffiTPipeline, steps=6, **changes):
    torch.manual_seed(3)
    network = awake(DiffiTUNet(dataclasses.replace(TINY_DIFFIT, **changes)))
    return kind(network, Sampler(num_steps=steps), precision="fp32", class_names=("a", "b", "c"))


@pytest.fixture(scope="module")
def pipe():
    return a_pipe()


@pytest.fixture
def teacher(pipe):
    return teacher_of(pipe, "tiny")


@dataclasses.dataclass(frozen=True)
class GaussianConfig(NetworkConfig, kind="TestGaussian"):
    resolution: int = 4
    channels: int = 1
    num_classes: int = 0

    def build(self):
        return GaussianNetwork(self)


class GaussianNetwork(Network):
    config_class = GaussianConfig

    def __init__(self, config):
        super().__init__(config)
        self.ideal, _, _ = a_gaussian()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, time, class_labels=None):
        return self.scale * self.ideal(x, time).x_0


@dataclasses.dataclass(frozen=True)
class Unscaled(Preconditioning, kind="test_unscaled"):
    """D(x; sigma) = F(x; sigma)."""

    def c_skip(self, sigma):
        return 0.0

    def c_out(self, sigma):
        return 1.0

    def c_in(self, sigma):
        return 1.0

    def c_noise(self, sigma):
        return sigma


def a_gaussian():
    """The ideal denoiser of a Gaussian on 4 x 4 images: its eigenbasis, eigenvalues and mean."""
    generator = torch.Generator().manual_seed(2)
    mean = torch.randn(1, 1, 4, 4, generator=generator) * 0.3
    factor = torch.randn(16, 16, generator=generator) * 0.25
    return IdealDenoiser(mean, factor @ factor.T), mean, factor @ factor.T


def gaussian_teacher(steps=40):
    """The ideal denoiser as anybody's network, under a preconditioning of its own."""
    network = GaussianNetwork(GaussianConfig())
    pipe = Pipeline(network, Sampler(num_steps=steps), preconditioning=Unscaled(), precision="fp32")
    return Teacher("gaussian", pipe)


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
    [((0.5, 0.6, 0.0), "times fall"), ((0.5,), "times fall"), ((1.0, 0.0), "from below 1")],
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


def test_training_takes_as_many_trajectories_as_it_is_told(teacher, kept, tmp_path):
    few = dataclasses.replace(longer(TINY, total_images=64), count=16)
    collect(few, teacher, tmp_path / "kept", show=False)
    trainer = distilled(few, teacher, tmp_path / "kept", tmp_path / "run")
    assert len(trainer.task.data) == 16
    collect(TINY, teacher, tmp_path / "kept", show=False)  # 24 of them now
    trainer = distilled(longer(few, total_images=128), teacher, tmp_path / "kept", tmp_path / "run")
    assert len(trainer.task.data) == 16  # the run goes on with those that it began with
    trainer = Trainer.of(TINY, teacher=teacher, folder=tmp_path / "kept", show=False)
    assert len(trainer.task.data) == 24


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
    with pytest.raises(OvertoneError, match=r"need 0.0 MB in .*, and 0.0 MB are free: take fewer"):
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


def test_weights_are_the_published_ones():
    golden = Golden("dsno_uncond")
    sigmas = (-golden["in.logsnr"] / 2).exp().tolist()
    sigmas[-1] = 0.0  # t = 0, where the published sigma is e^-10, and the clamp holds
    assert weights_of(sigmas, "snr") == pytest.approx(golden["loss_weight"].tolist(), rel=1e-5)
    assert weights_of(sigmas, "uniform") == [1.0] * 4


def test_the_loss_is_the_weighted_absolute_difference():
    class Model(torch.nn.Module):
        def forward(self, z, sigmas, labels):
            assert labels.tolist() == [0, 1]
            return torch.stack([z * (k + 1) for k in range(len(sigmas))], dim=1)

    objective = TrajectoryObjective((80.0, 0.5, 0.0), num_classes=3)
    states = torch.randn(2, 3, 1, 4, 4)
    batch = objective.draw(states, torch.tensor([0, 1]), SeededNoise([]))
    loss = objective.loss(Model(), batch)
    for image in range(2):
        z, half, last = states[image]
        by_hand = (2.0 * (z - half).abs().mean() + 1e4 * (2 * z - last).abs().mean()) / 2
        assert float(loss[image]) == pytest.approx(float(by_hand), rel=1e-5)
    far = dataclasses.replace(
        objective, perceptual=lambda a, b: (a - b).square().flatten(1).sum(1), weighting="uniform"
    )
    z, half, last = states[0]
    by_hand = ((z - half).square().sum() + (2 * z - last).square().sum()) / 2
    assert float(far.loss(Model(), batch)[0]) == pytest.approx(float(by_hand), rel=1e-5)


def test_lpips_names_its_extra(monkeypatch):
    from overtone.training.perceptual import perceptual_distance

    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(OvertoneError, match=r"pip install .* '\.\[lpips\]'"):
        perceptual_distance(torch.device("cpu"))


def test_lpips_sees_rgb_of_32_pixels(monkeypatch):
    from overtone.training.perceptual import perceptual_distance

    class LPIPS(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            self.linear = torch.nn.Linear(1, 1)

        def forward(self, one, other):
            assert one.shape[1:] == other.shape[1:] == (3, 32, 32)
            return (one - other).abs().mean(dim=(1, 2, 3), keepdim=True)

    monkeypatch.setitem(sys.modules, "lpips", namedtuple("module", "LPIPS")(LPIPS))
    distance = perceptual_distance(torch.device("cpu"))
    one = torch.zeros(2, 1, 8, 8, requires_grad=True)
    out = distance(one, torch.ones(2, 1, 8, 8))
    assert out.tolist() == pytest.approx([1.0, 1.0])
    out.sum().backward()
    assert one.grad is not None


def distilled(recipe, teacher, folder, run):
    trainer = Trainer.of(recipe, teacher=teacher, folder=folder, show=False)
    trainer.run(run)
    return trainer


@pytest.fixture(scope="module")
def kept(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "trajectories"
    collect(TINY, teacher_of(pipe, "tiny"), folder, show=False)
    return folder


@pytest.fixture(scope="module")
def run(pipe, kept, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    distilled(TINY, teacher_of(pipe, "tiny"), kept, folder)
    return folder


def longer(recipe, **changes):
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, **changes))


def test_a_run_leaves_a_pipeline_of_one_evaluation(pipe, kept, run):
    log = read_log(run)
    assert [e["images"] for e in log if "loss" in e] == [64, 128, 192]
    assert [e["images"] for e in log if "held_out_loss" in e] == [0, 64, 128, 192]
    assert sorted(p.name for p in (run / "grids").iterdir())[-1] == "000000192.png"
    student = load_pipeline(find_checkpoint(run))
    assert isinstance(student, DSNOPipeline)
    assert student.class_names == pipe.class_names
    assert student.training["distilled from"] == "tiny"
    assert student.training["trajectories"] == 24
    calls = []
    student.network.register_forward_hook(lambda *a: calls.append(1))
    whole = student(range(6), batch_size=6)
    assert len(calls) == 1
    parts = student(range(6), batch_size=4)
    difference = np.stack(whole).astype(int) - np.stack(parts).astype(int)
    assert np.abs(difference).max() <= 1
    assert student.sampler.levels == pytest.approx(TrajectoryData(kept).index.sigmas)


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(teacher, kept, run, tmp_path):
    part = longer(TINY, total_images=64)
    distilled(part, teacher, kept, tmp_path / "run")
    distilled(TINY, teacher, kept, tmp_path / "run")
    for name in ("network/model.safetensors", "training/optimizer.safetensors"):
        one = (find_checkpoint(run) / name).read_bytes()
        assert (find_checkpoint(tmp_path / "run") / name).read_bytes() == one
    with pytest.raises(OvertoneError, match=r"weighting: \"snr\" -> \"uniform\""):
        distilled(dataclasses.replace(TINY, weighting="uniform"), teacher, kept, tmp_path / "run")


def test_all_states_and_other_times(run):
    student = load_pipeline(find_checkpoint(run))
    student.precision = "fp32"
    states = student.trajectory([3, 4], [1, 2])
    assert states.shape == (2, 4, 1, 8, 8)
    *_, step = student.path([3, 4], [1, 2])
    assert torch.allclose(states[:, -1], step.x, atol=1e-5)
    by_hand = student.network(
        SeededNoise([3, 4]).normal(states[:, 0]) * 80 / 6401**0.5,
        student.denoiser.times(student.sampler.levels[1:], torch.device("cpu")),
        torch.tensor([1, 2]),
    )
    torch.testing.assert_close(states, by_hand.detach(), rtol=1e-4, atol=1e-4)
    frames = student([3, 4, 5], [1, 2, 0], return_trajectory=True, batch_size=2)
    assert [len(row) for row in frames] == [4, 4, 4]
    assert np.array_equal(frames[1][-1], student([3, 4], [1, 2])[1])
    times = (0.9, 0.7, 0.5, 0.3, 0.1, 0.0)
    assert student.trajectory([3], [1], times=times).shape == (1, 6, 1, 8, 8)
    asked = student.sampler_of(Request([3], times=times))
    assert asked.levels[1] == pytest.approx(np.tan(0.9 * np.pi / 2), rel=1e-3)
    assert len(student([3], [1], times=times)) == 1
    with pytest.raises(OvertoneError, match=r"no steps to choose"):
        student([3], [1], return_trajectory=True, steps=4)
    with pytest.raises(OvertoneError, match=r"at least one image, not 0"):
        student([3], [1], return_trajectory=True, batch_size=0)
    with pytest.raises(OvertoneError, match=r"times .* fall to 0"):
        student([3], [1], times=(0.1, 0.5, 0.0))
    with pytest.raises(OvertoneError, match=r"times .* outside \[0, 1\]"):
        student([3], [1], times=(1.2, 0.5, 0.0))


def test_what_an_operator_does_not_do(run, pipe):
    student = load_pipeline(find_checkpoint(run))
    with pytest.raises(OvertoneError, match="in one evaluation: it has no steps to choose"):
        student([0], steps=4)
    with pytest.raises(OvertoneError, match="guidance that its trajectories were made with"):
        student([0], guidance_scale=2.0)
    with pytest.raises(OvertoneError, match="guides nothing"):
        pipe([0], guidance_scale=2.0, guide=student)
    with pytest.raises(OvertoneError, match="a teacher solves its way step by step"):
        teacher_of(student, "student")
    with pytest.raises(
        OvertoneError, match="its preconditioning is that of an operator, not 'edm'"
    ):
        DSNOPipeline(student.network, preconditioning=EDMPreconditioning())
    with pytest.raises(OvertoneError, match="its sampler can't be an OperatorSampler"):
        DiffiTPipeline(pipe.network, OperatorSampler())


def test_it_learns_the_flow_of_a_gaussian(tmp_path):
    """The solution is linear in the noise, and an operator comes close to it within seconds."""
    torch.manual_seed(0)
    config = DSNOConfig(
        resolution=4, channels=1, widths=(32,), num_cells=1, attention_resolutions=(),
        frequencies=32, embedding_width=32,
    )  # fmt: skip
    teacher = gaussian_teacher(20)
    recipe = DistillationRecipe(
        "", network=config, count=2048, held_out=128, dtype="float32", num_times=2,
        training=dataclasses.replace(TRAINING, total_images=12_800, batch_size=64, lr=4e-3,
                                     lr_rampdown_images=10_000, ema_halflife_images=500),
        reporting=Reporting(report_images=6400, checkpoint_images=12_800, held_out_images=128),
    )  # fmt: skip
    collect(recipe, teacher, tmp_path / "kept", show=False)
    trainer = distilled(recipe, teacher, tmp_path / "kept", tmp_path / "run")
    states, _ = TrajectoryData(tmp_path / "kept" / "test").fetch(range(128))
    with torch.no_grad():
        made = trainer.ema.module(states[:, 0], trainer.objective.sigmas[1:])
    error = (made[:, -1] - states[:, -1]).square().mean()
    explained = 1 - error / (states[:, -1] - states[:, -1].mean(0)).square().mean()
    assert float(explained) > 0.95


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
    monkeypatch.setattr(TrainingStream, "batches", lambda self, *a, share, workers: workers)
    assert trainer._batches(0) == 0
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


def test_the_student_begins_as_its_teacher_at_every_time(pipe, teacher):
    student = student_of(TINY, teacher).eval()
    sigmas = index_of(TINY, teacher).sigmas
    z, labels = torch.randn(2, 1, 8, 8), torch.tensor([0, 1])
    with torch.no_grad():
        states = student(z, sigmas[1:], labels)
        for place, sigma in enumerate(sigmas[1:]):
            time = torch.tensor(np.log(max(sigma, 0.002)) / 4, dtype=torch.float32)
            alone = pipe.network(z, time.expand(2), labels)
            torch.testing.assert_close(states[:, place], alone, rtol=1e-4, atol=1e-4)


def test_a_student_may_have_a_network_of_its_own(teacher, kept, tmp_path):
    config = DSNOConfig(
        resolution=8, channels=1, widths=(32,), num_cells=1, attention_resolutions=(),
        frequencies=8, embedding_width=16,
    )  # fmt: skip
    recipe = dataclasses.replace(longer(TINY, total_images=64), network=config)
    distilled(recipe, teacher, kept, tmp_path / "run")
    student = load_pipeline(find_checkpoint(tmp_path / "run"))
    assert isinstance(student.network, DSNOUNet)
    assert student.network.config.num_classes == 3
    assert len(student(range(3))) == 3
    # The published network is told t itself, and its image that of time 0.
    assert student.preconditioning.c_noise(0.0) == 0.0
    assert student.preconditioning.c_noise(1.0) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"resolution": 16}, "resolution is 8 of"), ({"channels": 3}, "channels is 1 of")],
)
def test_teacher_and_student_that_do_not_fit(teacher, changes, message):
    network = dataclasses.replace(DSNOConfig(resolution=8, channels=1), **changes)
    with pytest.raises(OvertoneError, match=f"teacher and student do not fit: {message}"):
        student_of(dataclasses.replace(TINY, network=network), teacher)


def test_trajectories_that_the_recipe_does_not_ask_for(pipe, kept):
    other = teacher_of(a_pipe(widths=(8, 16)), "tiny")
    with pytest.raises(OvertoneError, match=r"other trajectories than the recipe .*teacher_digest"):
        Trainer.of(TINY, teacher=other, folder=kept, show=False)
    with pytest.raises(OvertoneError, match=r"other trajectories than the recipe .*sigmas"):
        Trainer.of(
            dataclasses.replace(TINY, spacing="uniform"),
            teacher=teacher_of(pipe, "tiny"),
            folder=kept,
            show=False,
        )


def test_a_guided_teachers_trajectories_are_guided(pipe):
    guided = teacher_of(pipe, "tiny", guidance_scale=3.0)
    sigmas = index_of(TINY, guided).sigmas
    states, labels = solve(guided, [0, 1, 2], sigmas)
    *_, step = pipe.path([0, 1, 2], labels, guidance_scale=3.0)
    assert torch.equal(states[:, -1], step.x)
    *_, plain = pipe.path([0, 1, 2], labels)
    assert not torch.allclose(states[:, -1], plain.x)
    unconditional = DiffiTPipeline(DiffiTUNet(dataclasses.replace(TINY_DIFFIT, num_classes=0)))
    with pytest.raises(OvertoneError, match="needs a class-conditional model"):
        teacher_of(unconditional, "", guidance_scale=2.0)


def test_stochastic_teachers_need_another_solver():
    network = awake(DiffiTTransformer(TINY_TRANSFORMER))
    pipe = LatentDiffiTPipeline(
        network, AncestralSampler(num_steps=4), preconditioning=ADM_DIFFUSION, image_resolution=64
    )
    with pytest.raises(OvertoneError, match=r"draws noise at each step \(AncestralSampler\)"):
        teacher_of(pipe, "latent")
    teacher = teacher_of(pipe, "latent", solver="dpmpp_2m", steps=8)
    assert teacher.sampler.estimate == "two_step"
    assert len(teacher.sampler.sigmas) == 9
    student = student_of(TINY, teacher)
    assert student.preconditioning.times == ADM_DIFFUSION
    assert student.preconditioning.c_noise(0.0) == pytest.approx(0.0, abs=1e-3)
    states, _ = solve(teacher, [1, 2], index_of(TINY, teacher).sigmas)
    assert states.shape == (2, 5, 4, 8, 8)
    churning = dataclasses.replace(Sampler(), S_churn=10.0)
    with pytest.raises(OvertoneError, match=r"draws noise at each step \(Sampler\)"):
        teacher_of(DiffiTPipeline(DiffiTUNet(TINY_DIFFIT), churning), "churning")


def test_a_students_own_network_keeps_its_modes(teacher):
    config = DSNOConfig(
        resolution=8, channels=1, widths=(32,), attention_resolutions=(), frequencies=8, modes=3
    )
    recipe = dataclasses.replace(TINY, network=config)
    assert student_of(recipe, teacher).network.config.modes == 3
    assert student_of(dataclasses.replace(recipe, modes=1), teacher).network.config.modes == 1


def test_an_operator_is_compared_with_the_teacher_that_it_had(run, pipe):
    student = load_pipeline(find_checkpoint(run))
    assert len(compared(student, teacher_of(pipe, "tiny"), range(70)).operator) == 70
    with pytest.raises(OvertoneError, match="was distilled from tiny with weights"):
        compared(student, teacher_of(a_pipe(widths=(8, 16)), "other"), range(2))


def test_experts_teach_a_student_with_a_network_of_its_own(pipe):
    experts = MEMEPipeline.merged([pipe, a_pipe(widths=(8, 16))], boundaries=(0.5,))
    assert isinstance(experts.network, Experts)
    teacher = teacher_of(experts, "experts")
    with pytest.raises(OvertoneError, match="several experts, and a student is one network"):
        student_of(TINY, teacher)
    config = DSNOConfig(resolution=8, channels=1, widths=(32,), attention_resolutions=())
    student_of(dataclasses.replace(TINY, network=config), teacher)
    states, _ = solve(teacher, [1, 2], index_of(TINY, teacher).sigmas)
    *_, step = experts.path([1, 2])
    assert torch.equal(states[:, -1], step.x)


def a_unet(channels):
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(16, 16),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
        layers_per_block=1,
    )


@pytest.fixture
def foreign(tmp_path):
    from diffusers import DDIMPipeline, DDIMScheduler

    torch.manual_seed(0)
    unet = a_unet(1)
    DDIMPipeline(unet, DDIMScheduler()).save_pretrained(tmp_path / "foreign")
    return tmp_path / "foreign"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_size": (8, 16)}, "images are square here"),
        ({"sample_size": None}, "images are square here"),
        ({"out_channels": 3}, "makes 3 channels of 1"),
    ],
)
def test_diffusers_models_that_can_not_teach(foreign, changes, message):
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    unet = UNet2DModel.from_config(a_unet(1).config | changes)
    DDIMPipeline(unet, DDIMScheduler()).save_pretrained(foreign)
    with pytest.raises(OvertoneError, match=message):
        open_teacher(str(foreign))


def test_a_model_of_pixels_needs_no_vae(foreign):
    with pytest.raises(OvertoneError, match="makes pixels, which no VAE has to decode"):
        open_teacher(str(foreign), vae="somewhere")


def test_a_diffusers_pipeline_teaches(foreign, tmp_path, monkeypatch):
    teacher = open_teacher(str(foreign), "ddim", 10)
    assert teacher.sampler.estimate == "single"
    recipe = longer(TINY, total_images=64)
    data = collect(recipe, teacher, tmp_path / "kept", show=False)
    assert data.num_classes == 0
    distilled(recipe, teacher, tmp_path / "kept", tmp_path / "run")
    student = load_pipeline(find_checkpoint(tmp_path / "run"))
    assert isinstance(student.network.network, DiffusersNetwork)
    assert isinstance(student.preconditioning.times, VPPreconditioning)
    assert len(student(range(3))) == 3
    with pytest.raises(OvertoneError, match="class-conditional"):
        open_teacher(str(foreign), guidance_scale=2.0)
    # Of the Hub it keeps its name there, not that of the folder it was downloaded to.
    monkeypatch.setattr("overtone.storage.locate", lambda *_: foreign)
    assert open_teacher("google/ddpm-cat-256").name == "google/ddpm-cat-256"
    monkeypatch.undo()
    (foreign / "unet" / "own.py").write_text("raise SystemExit")
    with pytest.raises(OvertoneError, match=r"holds code \(own.py\), which diffusers might"):
        open_teacher(str(foreign), "ddim", 10)


PROCESS = RelayProcess(patch=2, schedule=QuantileSchedule(prob_length=0.93))


def test_a_whole_relay_is_distilled_to_two_evaluations(pipe, tmp_path):
    torch.manual_seed(1)
    network = awake(
        ADMUNet(dataclasses.replace(TINY_ADM, resolution=16, attention_resolutions=(8,)))
    )
    second = RelayPipeline(
        network,
        Sampler(num_steps=12, sigma_min=0.01, truncation_sigma=0.9, estimate="two_step"),
        process=PROCESS,
        precision="fp32",
        class_names=("a", "b", "c"),
    )
    second.first = copy.copy(pipe)
    recipe = longer(TINY, total_images=64)
    runs = {}
    second.save_pretrained(tmp_path / "relay")
    for name, teacher in (("first", teacher_of(pipe, "first")), ("second", None)):
        first = str(runs["first"]) if runs else ""
        solved = teacher or open_teacher(str(tmp_path / "relay"), first=first)
        for stage in (solved.pipe, getattr(solved.pipe, "first", None) or solved.pipe):
            stage.precision = "fp32"
        collect(recipe, solved, tmp_path / f"{name}-kept", show=False)
        runs[name] = tmp_path / name
        distilled(recipe, solved, tmp_path / f"{name}-kept", runs[name])
    data = TrajectoryData(tmp_path / "second-kept")
    second.first = load_pipeline(find_checkpoint(runs["first"]))
    second.first.precision = "fp32"
    begun = second.begin(range(1_000_000, 1_000_003), [1, 2, 0])
    expected = begun.start / (1 + begun.sigma**2) ** 0.5
    torch.testing.assert_close(data.fetch(range(3))[0][:, 0].float(), expected, atol=2e-3, rtol=0)
    relay = load_pipeline(find_checkpoint(runs["second"]))
    assert isinstance(relay, RelayPipeline)
    assert isinstance(relay.first, DSNOPipeline)
    calls = []
    for stage in (relay, relay.first):
        stage.network.register_forward_hook(lambda *a: calls.append(1))
    images = relay(range(4))
    assert len(calls) == 2
    assert images[0].size == (16, 16)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize(
    ("solver", "scheduler", "settings"),
    [
        ("ddim", "DDIMScheduler", {"clip_sample": False}),
        (
            "dpmpp_2m",
            "DPMSolverMultistepScheduler",
            {"lower_order_final": False, "final_sigmas_type": "zero", "euler_at_final": True},
        ),
    ],
)
def test_solvers_are_those_of_diffusers(solver, scheduler, settings):
    """The same noise levels, and the same steps down to the last but one, which leads to 0."""
    import diffusers

    network = awake(DiffiTUNet(TINY_DIFFIT))
    pipe = Pipeline(
        network,
        Sampler(4, levels=(9.0, 4.0, 1.0, 0.1)),
        preconditioning=ADM_DIFFUSION,
        precision="fp32",
    )
    own = getattr(diffusers, scheduler)(beta_end=0.02, timestep_spacing="leading", **settings)
    own.set_timesteps(8)
    steps = [int(t) for t in own.timesteps]
    levels = [float(ADM_DIFFUSION.schedule.levels[t]) for t in steps]
    pipe.sampler = Sampler(len(levels), levels=tuple(levels))
    teacher = teacher_of(pipe, "", solver=solver)
    begun = teacher.pipe.begin([1, 2], torch.tensor([0, 1]))
    ours = [step.x / (1 + step.sigma**2) ** 0.5 for step in begun.steps]
    x = begun.start / (1 + levels[0] ** 2) ** 0.5
    for number, step in enumerate(own.timesteps):
        with torch.no_grad():
            out = network(x, step.expand(2).float(), torch.tensor([0, 1]))
        x = own.step(out, step, x).prev_sample
        if number < len(steps) - 1:
            assert torch.allclose(x, ours[number], atol=2e-4), number


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


def test_the_guidance_a_model_was_saved_with_is_its_teachers(pipe):
    guided = copy.copy(pipe)
    guided.guidance = GuidanceSettings(scale=2.0)
    assert teacher_of(guided, "").made_with["guidance"]["scale"] == 2.0


def test_an_operator_without_a_teachers_time_is_told_t():
    operator = SolutionOperator(temporalize(DiffiTUNet(TINY_DIFFIT)), OperatorPreconditioning())
    schedule = VPCosineSchedule()
    assert operator.preconditioning.c_noise(2.0) == pytest.approx(float(schedule.t(2.0)))
    assert isinstance(Pipeline(DiffiTUNet(TINY_DIFFIT)).preconditioning, EDMPreconditioning)
    with pytest.raises(ValueError, match="sigma_min must be above 0"):
        OperatorPreconditioning(EDMPreconditioning(), sigma_min=0.0)
    with pytest.raises(ValueError, match="fall to 0"):
        OperatorSampler(levels=(80.0, 1.0))


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


def test_the_commands_from_a_teacher_to_images(pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained(tmp_path / "teacher")
    of = ["dsno-digits", "--teacher", "teacher", "--guidance-scale", "1", "--count", "40"]
    of += ["--held-out", "8", "--total-images", "64", "--batch-size", "32"]
    main(["distill", "collect", *of])
    assert "runs/dsno-digits-trajectories: 40 trajectories of teacher at sigma 80, " in (
        capsys.readouterr().out
    )
    main(["distill", "train", *of, "--dry-run"])
    assert "trajectories/s" in capsys.readouterr().out
    assert not (tmp_path / "runs" / "dsno-digits").exists()
    main(["distill", "train", *of])
    said = capsys.readouterr()
    assert "40 trajectories of teacher" in " ".join(said.err.split())
    assert "64 trajectories in" in said.out
    main(["sample", "runs/dsno-digits", "--seeds", "0-5", "--out", "images.png"])
    assert (tmp_path / "images.png").exists()
    for folder, kind in (("dsno-digits-trajectories", "trajectories"), ("dsno-digits", "run")):
        capsys.readouterr()
        main(["info", f"runs/{folder}", "--json"])
        assert json.loads(capsys.readouterr().out)["kind"] == kind
    recipe = json.loads((tmp_path / "runs/dsno-digits/recipe.json").read_text())
    assert recipe["kind"] == "distillation"
    main(["distill", "train", "runs/dsno-digits/recipe.json", "--dry-run", "--data",
          "runs/dsno-digits-trajectories"])  # fmt: skip


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


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_teachers_that_predict_something_else_are_others(foreign, prediction, tmp_path):
    one = index_of(TINY, open_teacher(str(foreign)))
    file = foreign / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"prediction_type": prediction}))
    other = index_of(TINY, open_teacher(str(foreign)))
    assert one.teacher_digest == other.teacher_digest
    assert fingerprint_of(one) != fingerprint_of(other)


def test_a_latent_diffusers_teacher_keeps_its_vae(tmp_path):
    from diffusers import DDIMScheduler, LDMPipeline, VQModel

    torch.manual_seed(0)
    unet = a_unet(3)
    vae = VQModel(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=3,
        num_vq_embeddings=8,
    )
    LDMPipeline(vae, unet, DDIMScheduler()).save_pretrained(tmp_path / "ldm")
    teacher = open_teacher(str(tmp_path / "ldm"), steps=6)
    recipe = longer(TINY, total_images=64)
    collect(recipe, teacher, tmp_path / "kept", show=False)
    distilled(recipe, teacher, tmp_path / "kept", tmp_path / "run")
    student = load_pipeline(find_checkpoint(tmp_path / "run"))
    assert student([0])[0].size == (16, 16)
    lpips = dataclasses.replace(recipe, distance="lpips")
    with pytest.raises(OvertoneError, match="is of images, grey or RGB, not of latents"):
        Trainer.of(lpips, teacher=teacher, folder=tmp_path / "kept", show=False)
    with pytest.raises(OvertoneError, match="at least one step"):
        open_teacher(str(tmp_path / "ldm"), steps=0)


def test_latents_that_nothing_decodes_are_distilled_without_pictures(tmp_path):
    network = awake(DiffiTTransformer(TINY_TRANSFORMER))
    pipe = LatentDiffiTPipeline(
        network, AncestralSampler(num_steps=4), preconditioning=ADM_DIFFUSION, image_resolution=64
    )
    teacher = teacher_of(pipe, "latent", solver="ddim", steps=6)
    recipe = longer(TINY, total_images=64)
    collect(recipe, teacher, tmp_path / "kept", show=False)
    distilled(recipe, teacher, tmp_path / "kept", tmp_path / "run")
    assert not (tmp_path / "run" / "grids").exists()
    assert load_pipeline(find_checkpoint(tmp_path / "run")).image_resolution == 64


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


def test_held_out_trajectories_may_be_left_aside(teacher, kept):
    recipe = dataclasses.replace(TINY, held_out=0)
    trainer = Trainer.of(recipe, teacher=teacher, folder=kept, show=False)
    assert trainer.task.held_out is None


def test_files_of_large_images_hold_fewer(teacher):
    assert index_of(TINY, teacher).block == 1024

    class Large(Teacher):
        channels, resolution = 3, 256

    class Huge(Large):
        resolution = 2048

    assert index_of(TINY, Large("", teacher.pipe)).block == 128
    assert index_of(TINY, Huge("", teacher.pipe)).block == 64
