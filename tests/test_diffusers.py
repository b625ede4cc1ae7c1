"""Both ways between diffusers and here: its models as denoisers, its schedulers as samplers."""

import dataclasses
from functools import partial

import diffusers
import numpy as np
import pytest
import torch

from helpers import DIFFUSERS_MARKS, TINY_DIFFIT, awake, gaussian
from overtone.denoisers import DiffusersDenoiser, EDMDenoiser, EDMPreconditioning, GuidedDenoiser
from overtone.errors import OvertoneError
from overtone.networks import DiffiTUNet
from overtone.networks.configs.foreign import foreign_config
from overtone.pipelines import DiffiTPipeline, load_pipeline
from overtone.processes import GaussianProcess, SeededNoise
from overtone.runs import find_checkpoint
from overtone.samplers import Sampler, SchedulerSampler
from overtone.samplers.schedulers import scheduler_sampler
from overtone.training import find_recipe, train

pytestmark = DIFFUSERS_MARKS

SEEDS = [3, 8, 21]


def make_unet(out_channels=1):
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=out_channels, block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), layers_per_block=1, norm_num_groups=4,
    )  # fmt: skip
    return awake(model).eval()


@pytest.fixture(scope="module")
def unet():
    return make_unet()


def generators():
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def sampled(denoiser, sampler, seeds=SEEDS):
    """The result of a sampler here, for one 1 x 8 x 8 image a seed."""
    source = SeededNoise(seeds)
    start = sampler.sigma_start * source.normal(torch.empty(len(seeds), 1, 8, 8))
    with torch.no_grad():
        for step in sampler.path(denoiser, GaussianProcess(), start, source):
            x = step.x
    assert step.sigma == 0
    return x


@torch.no_grad()
def loop(model, scheduler, steps):
    """The denoising loop as diffusers documents it."""
    scheduler.set_timesteps(steps)
    own = generators()
    x = torch.cat([torch.randn(1, 1, 8, 8, generator=g) for g in own]) * scheduler.init_noise_sigma
    more = {"generator": own} if "generator" in scheduler.step.__code__.co_varnames else {}
    for t in scheduler.timesteps:
        out = model(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(out, t, x, **more).prev_sample
    return x


def test_ddim_is_diffusers_own_pipeline(unet):
    """Model and scheduler both through the adapters, against DDIMPipeline from the same noise."""
    scheduler = diffusers.DDIMScheduler()
    pipe = diffusers.DDIMPipeline(unet, scheduler)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(len(SEEDS), generators(), num_inference_steps=20, output_type="np").images
    ours = sampled(DiffusersDenoiser(unet, scheduler), SchedulerSampler(scheduler, 20))
    assert np.abs((ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() - theirs).max() < 1e-4


SCHEDULERS = {
    "ddim": partial(diffusers.DDIMScheduler, clip_sample=False),
    "ddim, v": partial(diffusers.DDIMScheduler, clip_sample=False, prediction_type="v_prediction"),
    "ddim, x": partial(diffusers.DDIMScheduler, clip_sample=False, prediction_type="sample"),
    "dpm-solver++": partial(diffusers.DPMSolverMultistepScheduler),
    "dpm-solver++, v": partial(
        diffusers.DPMSolverMultistepScheduler, prediction_type="v_prediction"
    ),
    "dpm-solver++, karras": partial(diffusers.DPMSolverMultistepScheduler, use_karras_sigmas=True),
    "dpm-solver++, single": partial(diffusers.DPMSolverSinglestepScheduler),
    "unipc": partial(diffusers.UniPCMultistepScheduler),
    "deis": partial(diffusers.DEISMultistepScheduler),
    "pndm": partial(diffusers.PNDMScheduler),
    "euler": partial(diffusers.EulerDiscreteScheduler),
    "euler, v": partial(diffusers.EulerDiscreteScheduler, prediction_type="v_prediction"),
    "heun": partial(diffusers.HeunDiscreteScheduler),
    "lms": partial(diffusers.LMSDiscreteScheduler),
    "ddpm": partial(diffusers.DDPMScheduler, clip_sample=False),
    "euler ancestral": partial(diffusers.EulerAncestralDiscreteScheduler),
    "dpm-solver++, sde": partial(
        diffusers.DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++"
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_on_our_denoisers_are_diffusers_own_loop(unet, name):
    scheduler = SCHEDULERS[name]()
    theirs = loop(unet, type(scheduler).from_config(scheduler.config), 15)
    ours = sampled(DiffusersDenoiser(unet, scheduler), SchedulerSampler(scheduler, 15))
    # On Karras's levels diffusers rounds the model's time to whole steps; here it is interpolated.
    bound = 0.05 if "karras" in name else 2e-4
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < bound


def test_learned_variance_reaches_the_scheduler():
    model = make_unet(out_channels=2)
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    theirs = loop(model, diffusers.DDPMScheduler.from_config(scheduler.config), 15)
    ours = sampled(DiffusersDenoiser(model, scheduler), SchedulerSampler(scheduler, 15))
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 2e-4


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True),
        diffusers.DPMSolverMultistepScheduler(),
        diffusers.UniPCMultistepScheduler(),
        diffusers.EDMEulerScheduler(),
        diffusers.EDMDPMSolverMultistepScheduler(),
    ],
    ids=lambda s: type(s).__name__,
)
def test_schedulers_take_a_gaussian_to_its_distribution(scheduler):
    """On the ideal denoiser the flow is known: each eigendirection shrinks by its own factor."""
    denoiser, mean, covariance = gaussian()
    sampler = SchedulerSampler(scheduler, 200)
    noise = torch.randn(4, 1, 1, 4, dtype=torch.float64)
    start = sampler.sigma_start * noise
    for step in sampler.path(denoiser, GaussianProcess(), start, SeededNoise(range(4))):
        x = step.x
    values, basis = torch.linalg.eigh(covariance)
    shrink = (values / (values + sampler.sigmas[0] ** 2)).sqrt()
    expected = mean + ((start.flatten(1) - mean) @ basis * shrink) @ basis.T
    first_order = "Euler" in type(scheduler).__name__ or "DDIM" in type(scheduler).__name__
    assert torch.allclose(x.flatten(1), expected, atol=0.05 if first_order else 0.01)


@pytest.mark.parametrize("name", ["ddpm", "euler ancestral", "dpm-solver++, sde"])
def test_an_images_noise_is_its_own_under_stochastic_schedulers(unet, name):
    denoiser = DiffusersDenoiser(unet, SCHEDULERS[name]())
    sampler = SchedulerSampler(SCHEDULERS[name](), 10)
    together = sampled(denoiser, sampler)
    alone = sampled(denoiser, sampler, SEEDS[1:2])
    assert torch.allclose(together[1], alone[0], atol=1e-4)


def test_a_pipeline_takes_a_scheduler_for_its_sampler(tmp_path):
    torch.manual_seed(0)
    pipe = DiffiTPipeline(awake(DiffiTUNet(TINY_DIFFIT)), Sampler(num_steps=4), precision="fp32")
    expected = pipe([5], class_labels=1)[0]
    pipe.sampler = SchedulerSampler(diffusers.DPMSolverMultistepScheduler(), 4)
    other = pipe([5], class_labels=1, guidance_scale=1.5, steps=6)[0]
    assert other.size == (8, 8)
    assert other.tobytes() != expected.tobytes()
    pipe.sampler = SchedulerSampler(diffusers.DDIMScheduler(), 4)
    with pytest.raises(OvertoneError, match="num_inference_steps"):
        pipe([5], class_labels=1, steps=2000)
    with pytest.raises(OvertoneError, match="saved with a sampler of Overtone's own"):
        pipe.save_pretrained(tmp_path / "pipe")
    assert not list(tmp_path.iterdir())


def test_edm_schedulers_precondition_as_we_do():
    """diffusers' EDM scheduler turns a raw network's output into the estimate of `EDMDenoiser`."""
    network = awake(DiffiTUNet(TINY_DIFFIT)).eval()
    scheduler = diffusers.EDMEulerScheduler(sigma_data=0.5)
    x, sigma = torch.randn(2, 1, 8, 8) * 3, torch.tensor(3.0)
    with torch.no_grad():
        ours = EDMDenoiser(network, EDMPreconditioning(0.5))(x, 3.0).x_0
        time = scheduler.precondition_noise(sigma).expand(2)
        out = network(scheduler.precondition_inputs(x, sigma), time)
    assert torch.allclose(scheduler.precondition_outputs(x, out, sigma), ours, atol=1e-5)


def test_score_models_are_denoisers(unet):
    denoiser = DiffusersDenoiser(unet, diffusers.ScoreSdeVeScheduler())
    x, sigma = torch.randn(2, 1, 8, 8), 1.7
    with torch.no_grad():
        score = unet(x, torch.full((2,), sigma)).sample
        assert torch.allclose(denoiser(x, sigma).x_0, x + sigma**2 * score)


def test_classes_go_to_the_model():
    model = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16,), norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), num_class_embeds=3,
    )  # fmt: skip
    denoiser = DiffusersDenoiser(awake(model).eval(), diffusers.DDPMScheduler())
    assert denoiser.num_classes == 3
    x = torch.randn(2, 1, 8, 8)
    one, two = (denoiser(x, 1.0, torch.tensor([k, k])).x_0 for k in (0, 1))
    assert not torch.allclose(one, two)
    with pytest.raises(OvertoneError, match="pass class labels"):
        denoiser(x, 1.0)
    with pytest.raises(ValueError, match="no null class for classifier-free guidance"):
        GuidedDenoiser(denoiser, 2.0)
    # Trained with its last class as the null class, it can be guided.
    guided = DiffusersDenoiser(model, diffusers.DDPMScheduler(), null_class=True)
    assert guided.num_classes == 2
    assert torch.allclose(guided(x, 1.0).x_0, denoiser(x, 1.0, torch.tensor([2, 2])).x_0)
    GuidedDenoiser(guided, 2.0)(x, 1.0, torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (
            partial(diffusers.FlowMatchEulerDiscreteScheduler, use_dynamic_shifting=True),
            "FlowMatchEulerDiscreteScheduler shifts its noise levels by a number",
        ),
        (
            partial(diffusers.FlowMatchEulerDiscreteScheduler, invert_sigmas=True),
            "FlowMatchEulerDiscreteScheduler counts its noise levels from the other end",
        ),
        (partial(diffusers.CMStochasticIterativeScheduler), "CMStochasticIterativeScheduler"),
        (
            partial(diffusers.DDIMScheduler, rescale_betas_zero_snr=True),
            "DDIMScheduler rescales .* sigma is infinite",
        ),
        (partial(diffusers.KDPM2DiscreteScheduler), "KDPM2DiscreteScheduler does not show"),
        (
            partial(diffusers.UniPCMultistepScheduler, use_flow_sigmas=True),
            "UniPCMultistepScheduler is set to flow matching",
        ),
        (
            partial(diffusers.UniPCMultistepScheduler, prediction_type="flow_prediction"),
            "UniPCMultistepScheduler with prediction_type 'flow_prediction'",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.func.__name__,
)
def test_schedulers_that_can_not_work_are_refused_by_name(unet, scheduler, message):
    scheduler = scheduler()
    with pytest.raises(OvertoneError, match=message):
        SchedulerSampler(scheduler)
    if "KDPM2" not in message and "flow matching" not in message:
        with pytest.raises(OvertoneError, match=type(scheduler).__name__):
            DiffusersDenoiser(unet, scheduler)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_its_networks_are_trained_with_classes_and_without(tmp_path, kind):
    if kind == "unet":
        model = make_unet()
    else:
        model = diffusers.DiTTransformer2DModel(
            sample_size=8, in_channels=1, out_channels=1, patch_size=2, num_layers=1,
            num_attention_heads=2, attention_head_dim=8, norm_num_groups=2, num_embeds_ada_norm=10,
        )  # fmt: skip
    recipe = find_recipe("diffit-digits")
    recipe = dataclasses.replace(
        recipe,
        network=foreign_config(model),
        sampler=Sampler(3),
        training=dataclasses.replace(
            recipe.training, total_images=64, batch_size=32, lr_rampup_images=0
        ),
        reporting=dataclasses.replace(recipe.reporting, held_out_images=32),
    )
    pipe = train(recipe, tmp_path / "classes", show=False)
    assert pipe.num_classes == 10
    assert len(pipe([1, 2], class_labels=[3, 4], guidance_scale=2.0, steps=2)) == 2
    again = load_pipeline(find_checkpoint(tmp_path / "classes"))
    assert again.network.config == pipe.network.config
    recipe = dataclasses.replace(recipe, class_conditional=False)
    if kind == "dit":
        with pytest.raises(OvertoneError, match="num-classes is 10, but builtin:digits has 0"):
            train(recipe, tmp_path / "none", show=False)
    else:
        assert train(recipe, tmp_path / "none", show=False).num_classes == 0
    wrong = dataclasses.replace(recipe.network, model={"sample_size": 8})
    recipe = dataclasses.replace(recipe, network=wrong, class_conditional=kind == "dit")
    with pytest.raises(OvertoneError, match=r"network settings|fails on two images|returns \("):
        train(recipe, tmp_path / "wrong", show=False)


FITTED = (14.0, 5.0, 1.7, 0.6, 0.15)
"""noise levels of no grid"""


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.EulerDiscreteScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_schedulers_take_the_levels_that_a_sampler_was_fitted_to(scheduler):
    """Euler's method at these levels is Euler's method, whoever takes the steps."""
    denoiser, _, _ = gaussian(16)
    levels = FITTED
    own = Sampler(5, levels=levels, estimate="euler")
    theirs = SchedulerSampler(scheduler).with_levels(levels)
    assert theirs.visited == pytest.approx(levels, rel=1e-4)
    start = levels[0] * torch.randn(3, 1, 4, 4, dtype=torch.float64)
    process, source = GaussianProcess(), SeededNoise(range(3))
    made = [s(denoiser, process, start.clone(), source) for s in (own, theirs)]
    assert torch.allclose(*made, atol=2e-4)
    again = scheduler_sampler(theirs.facts())
    assert again.levels == levels
    assert again.facts() == theirs.facts()


@pytest.mark.parametrize(
    ("scheduler", "error"),
    [
        (diffusers.DDIMScheduler(), "DDIMScheduler takes no noise levels"),
        (diffusers.DPMSolverMultistepScheduler(), "takes no noise levels"),
    ],
)
def test_schedulers_that_take_no_levels_say_so(scheduler, error):
    with pytest.raises(ValueError, match=error):
        SchedulerSampler(scheduler).with_levels(FITTED)


def test_a_scheduler_that_changes_the_levels_is_refused():
    for scheduler in (
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        diffusers.EDMEulerScheduler(),  # which takes a ramp for its own grid
    ):
        with pytest.raises(OvertoneError, match="changes the noise levels"):
            _ = SchedulerSampler(scheduler).with_levels(FITTED).sigmas
    with pytest.raises(ValueError, match="5 noise levels of its own, which can't be made into 3"):
        SchedulerSampler(diffusers.EulerDiscreteScheduler(), 3, levels=FITTED)
