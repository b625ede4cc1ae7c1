"""Which models teach, with which solver and which guidance, those of diffusers among them."""

import copy
import dataclasses
import json

import pytest
import torch

from helpers import TINY_DIFFIT, TINY_TRANSFORMER, awake
from overtone.data.trajectories import fingerprint_of
from overtone.denoisers import ADM_DIFFUSION, GuidanceSettings, VPPreconditioning
from overtone.errors import OvertoneError
from overtone.networks import DiffiTTransformer, DiffiTUNet, DiffusersNetwork, DSNOConfig, Experts
from overtone.networks.configs.dsno import TemporalConfig
from overtone.pipelines import (
    DiffiTPipeline,
    LatentDiffiTPipeline,
    MEMEPipeline,
    Pipeline,
    load_pipeline,
)
from overtone.runs import find_checkpoint
from overtone.samplers import AncestralSampler, Sampler
from overtone.training.collect import collect, index_of, solve
from overtone.training.distill import student_of
from overtone.training.loop import Trainer
from overtone.training.teacher import open_teacher, teacher_of
from teachers import TINY, a_pipe, distilled, longer


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


def test_experts_teach_a_student_that_begins_as_one_of_them_or_with_a_network_of_its_own(pipe):
    experts = MEMEPipeline.merged([pipe, a_pipe(widths=(8, 16))], boundaries=(0.5,))
    assert isinstance(experts.network, Experts)
    teacher = teacher_of(experts, "experts")
    begun, last = student_of(TINY, teacher), experts.network.networks[-1]
    assert begun.network.config.network == last.config
    z, labels = torch.randn(2, 1, 8, 8), torch.tensor([0, 1])
    for sigma, state in zip((2.0, 0.5), begun(z, (2.0, 0.5), labels).unbind(1), strict=True):
        time = torch.tensor(begun.preconditioning.c_noise(sigma)).expand(2)
        assert torch.allclose(state, last(z, time, labels), atol=1e-6)
    own = dataclasses.replace(pipe.network.config, widths=(16, 16))
    grown = student_of(dataclasses.replace(TINY, network=own, modes=1), teacher)
    assert (grown.network.config.network, grown.network.config.modes) == (own, 1)
    assert grown.preconditioning == begun.preconditioning
    whole = TemporalConfig(dataclasses.replace(own, num_classes=0), modes=3)
    student = student_of(dataclasses.replace(TINY, network=whole), teacher)
    assert student.network.config == dataclasses.replace(whole, network=own)
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


def test_the_guidance_a_model_was_saved_with_is_its_teachers(pipe):
    guided = copy.copy(pipe)
    guided.guidance = GuidanceSettings(scale=2.0)
    assert teacher_of(guided, "").made_with["guidance"]["scale"] == 2.0


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
    with pytest.raises(OvertoneError, match="num_steps must be at least 1, not 0"):
        open_teacher(str(tmp_path / "ldm"), steps=0)
