"""Students of a teacher's trajectories: their loss, their run, and images in one evaluation."""

import copy
import dataclasses
import json
import sys
from collections import namedtuple

import numpy as np
import pytest
import torch

from helpers import TINY_ADM, TINY_DIFFIT, TINY_TRANSFORMER, Golden, awake
from overtone.analysis.trajectories import compared
from overtone.cli.app import main
from overtone.data.trajectories import TrajectoryData
from overtone.denoisers import (
    ADM_DIFFUSION,
    EDMPreconditioning,
    OperatorPreconditioning,
    SolutionOperator,
)
from overtone.errors import OvertoneError
from overtone.networks import (
    ADMUNet,
    DiffiTTransformer,
    DiffiTUNet,
    DSNOConfig,
    DSNOUNet,
    temporalize,
)
from overtone.pipelines import (
    DiffiTPipeline,
    DSNOPipeline,
    LatentDiffiTPipeline,
    Pipeline,
    RelayPipeline,
    Request,
    load_pipeline,
)
from overtone.processes import SeededNoise, VPCosineSchedule
from overtone.runs import find_checkpoint, read_log
from overtone.samplers import AncestralSampler, OperatorSampler, Sampler
from overtone.training.collect import collect, index_of
from overtone.training.configs.distillation import DistillationRecipe
from overtone.training.configs.training import Reporting
from overtone.training.distill import TrajectoryObjective, student_of, weights_of
from overtone.training.loop import Trainer
from overtone.training.teacher import open_teacher, teacher_of
from teachers import PROCESS, TINY, TRAINING, a_pipe, distilled, gaussian_teacher, longer


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
    with pytest.raises(OvertoneError, match=r"times .* must be in \[0, 1\], not 1\.2"):
        student([3], [1], times=(1.2, 0.5, 0.0))


def test_what_an_operator_does_not_do(run, pipe):
    student = load_pipeline(find_checkpoint(run))
    with pytest.raises(OvertoneError, match="in one evaluation: it has no steps to choose"):
        student([0], steps=4)
    with pytest.raises(OvertoneError, match="guidance that its trajectories were made with"):
        student([0], guidance_scale=2.0)
    with pytest.raises(OvertoneError, match="guides nothing"):
        pipe([0], guidance_scale=2.0, guide=student)
    with pytest.raises(OvertoneError, match="name the model that it was distilled from"):
        teacher_of(student, "student")
    with pytest.raises(
        OvertoneError, match="its preconditioning is that of an operator, not 'edm'"
    ):
        DSNOPipeline(student.network, preconditioning=EDMPreconditioning())
    with pytest.raises(OvertoneError, match="its sampler can't be an OperatorSampler"):
        DiffiTPipeline(pipe.network, OperatorSampler())


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_an_operator_without_a_teachers_time_is_told_t():
    operator = SolutionOperator(temporalize(DiffiTUNet(TINY_DIFFIT)), OperatorPreconditioning())
    schedule = VPCosineSchedule()
    assert operator.preconditioning.c_noise(2.0) == pytest.approx(float(schedule.t(2.0)))
    assert isinstance(Pipeline(DiffiTUNet(TINY_DIFFIT)).preconditioning, EDMPreconditioning)
    with pytest.raises(ValueError, match="sigma_min must be above 0"):
        OperatorPreconditioning(EDMPreconditioning(), sigma_min=0.0)
    with pytest.raises(ValueError, match="fall to 0"):
        OperatorSampler(levels=(80.0, 1.0))


@pytest.mark.slow
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


def test_held_out_trajectories_may_be_left_aside(teacher, kept):
    recipe = dataclasses.replace(TINY, held_out=0)
    trainer = Trainer.of(recipe, teacher=teacher, folder=kept, show=False)
    assert trainer.task.held_out is None
