"""The latent transformer: published numbers, sizes, learned variance, DDPM's sampler, guidance."""

import dataclasses
import json
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.utils.flop_counter import FlopCounterMode

from helpers import DIFFUSERS_MARKS, TINY_TRANSFORMER, Golden, awake, deviation, gaussian, tiny_vae
from overtone.cli.app import main
from overtone.convert import dit_pipeline, from_published
from overtone.denoisers import (
    ADM_DIFFUSION,
    EDMDenoiser,
    Estimate,
    GuidanceSettings,
    GuidedDenoiser,
    VPDenoiser,
    VPPreconditioning,
)
from overtone.errors import OvertoneError
from overtone.networks import DiffiTTransformer, DiffiTTransformerConfig
from overtone.networks.diffit import positions
from overtone.pipelines import LatentDiffiTPipeline, load_pipeline
from overtone.processes import DiscreteSchedule, GaussianProcess, SeededNoise
from overtone.processes.noise import mix
from overtone.processes.posterior import ReverseSteps, log_variance, variational_bound
from overtone.samplers import AncestralSampler, SchedulerSampler, scheduler_of
from overtone.storage import save_tensors
from overtone.training.objectives import DenoisingObjective

pytestmark = DIFFUSERS_MARKS

PUBLISHED = ("diffit_latent", "diffit_latent_512_guidance")


def published(name):
    golden = Golden(name)
    state = {key: golden[f"state.{key}"] for key in golden.state}
    return golden, state, from_published("diffit-latent", state, golden.config)


def test_the_transformer_gives_the_published_numbers():
    golden, state, network = published("diffit_latent")
    with torch.no_grad():
        out = network(golden["in.sample"], golden["in.timestep"], golden["in.class_labels"])
    assert deviation(out, golden["out.sample"]) < 2e-6
    # All settings are read off the tensors.
    assert from_published("diffit-latent", state).config == network.config


@pytest.mark.parametrize("name", PUBLISHED)
def test_guidance_gives_the_published_numbers(name):
    # Given for [conditional; null], both fed the first half's samples; ours is the first half.
    golden, _, network = published(name)
    settings = GuidanceSettings(
        scale=golden.config["cfg_scale"],
        channels=(0, 1, 2),
        power=golden.config.get("scale_pow"),
    )
    guided = GuidedDenoiser(VPDenoiser(network, ADM_DIFFUSION), settings)
    for i in range(len(golden["cfg.sample"]) // 2):
        sigma = float(ADM_DIFFUSION.schedule.levels[int(golden["cfg.timestep"][i])])
        x = golden["cfg.sample"][i : i + 1] * math.sqrt(1 + sigma**2)
        with torch.no_grad():
            x_0, variance = guided(x, sigma, golden["cfg.class_labels"][i : i + 1])
        out = torch.cat(((x - x_0) / sigma, variance), dim=1)
        assert deviation(out, golden["cfg.out"][i : i + 1]) < 2e-6


@pytest.mark.parametrize(
    ("name", "millions", "macs"),
    [("xl-2-256", 561.0, 114.3), ("s-2", 27.3, 5.45), ("b-2", 108.0, 21.8), ("l-2", 380.5, 77.4)],
)
def test_presets_have_the_published_sizes(name, millions, macs):
    # The paper: 561 M parameters and 114 G multiply-adds, which leaves out the products of queries
    # with keys and of weights with values.
    config = DiffiTTransformerConfig.preset(name, num_classes=1000)
    with torch.device("meta"):
        network = DiffiTTransformer(config).eval()
        x = torch.empty(1, 4, config.resolution, config.resolution)
        time, labels = torch.empty(1), torch.zeros(1, dtype=torch.int64)
    assert network.num_parameters / 1e6 == pytest.approx(millions, abs=0.06)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x, time, labels)
    tokens = (config.resolution // config.patch) ** 2
    attention = 2 * config.depth * tokens**2 * config.width
    assert counter.get_total_flops() / 2e9 - attention / 1e9 == pytest.approx(macs, rel=5e-3)


def test_the_512_px_preset_differs_by_its_tables():
    small, large = (DiffiTTransformerConfig.preset(f"xl-2-{size}", 1000) for size in (256, 512))
    assert dataclasses.replace(large, resolution=32) == small
    with torch.device("meta"):
        more = DiffiTTransformer(large).num_parameters - DiffiTTransformer(small).num_parameters
    assert more == 28 * 16 * (63**2 - 31**2)


def test_positions_are_those_of_dit():
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    reference = get_2d_sincos_pos_embed(48, 6, base_size=6, output_type="pt").float()
    assert torch.allclose(positions(48, (6, 6), 6), reference, atol=1e-6)
    # On a finer grid, each second token is where a token of the coarse one is.
    fine = positions(48, (12, 12), 6).view(12, 12, 48)
    assert torch.allclose(fine[::2, ::2].flatten(0, 1), reference, atol=1e-6)


def test_any_size_but_the_trained_one_changes_nothing_there():
    network = awake(DiffiTTransformer(TINY_TRANSFORMER)).eval()
    time, labels = torch.tensor([3.0]), torch.tensor([1])
    with torch.no_grad():
        before = network(torch.ones(1, 4, 8, 8), time, labels)
        wide = network(torch.ones(1, 4, 4, 12), time, labels)
        after = network(torch.ones(1, 4, 8, 8), time, labels)
    assert wide.shape == (1, 8, 4, 12)
    assert torch.equal(before, after)
    # A smooth input at twice the size gives nearly the same, at twice the size.
    ramp = torch.linspace(-1, 1, 8).expand(1, 4, 8, 8).contiguous()
    config = dataclasses.replace(TINY_TRANSFORMER, patch=1)
    network = awake(DiffiTTransformer(config)).eval()
    with torch.no_grad():
        small = network(ramp, time, labels)
        large = network(ramp.repeat_interleave(2, 2).repeat_interleave(2, 3), time, labels)
        large = torch.nn.functional.avg_pool2d(large, 2)
    assert float((large - small).norm() / small.norm()) < 0.25
    with pytest.raises(ValueError, match="do not divide into patches of 2"):
        DiffiTTransformer(TINY_TRANSFORMER)(torch.ones(1, 4, 7, 8), time, labels)


def test_checkpointing_changes_memory_and_no_gradient():
    network = awake(DiffiTTransformer(TINY_TRANSFORMER))
    x, time, labels = torch.randn(2, 4, 8, 8), torch.tensor([5.0, 900.0]), torch.tensor([0, 3])

    def gradients(checkpointing):
        network.gradient_checkpointing = checkpointing
        kept = 0

        def keep(tensor):
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = network(x, time, labels).square().sum()
        return kept, torch.autograd.grad(loss, list(network.parameters()))

    (usual, reference), (less, ours) = gradients(False), gradients(True)
    assert less < usual / 3
    assert all(torch.equal(a, b) for a, b in zip(ours, reference, strict=True))


def test_every_parameter_learns():
    network = awake(DiffiTTransformer(TINY_TRANSFORMER))
    labels = torch.arange(4)  # 3 is the null class
    network(torch.randn(4, 4, 8, 8), torch.rand(4) * 999, labels).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_without_classes_there_is_no_table():
    network = awake(DiffiTTransformer(dataclasses.replace(TINY_TRANSFORMER, num_classes=0)))
    assert network(torch.randn(1, 4, 8, 8), torch.tensor([1.0])).shape == (1, 8, 8, 8)
    assert not [name for name in network.state_dict() if "classes" in name]


# Learned variance, against DDPM's formulas in its own frame and against diffusers.


def betas_of(schedule):
    abar = 1 / (1 + schedule.levels**2)
    return abar, 1 - abar / torch.cat((abar.new_ones(1), abar[:-1]))


def test_the_bound_is_the_divergence_of_the_two_gaussians():
    schedule = DiscreteSchedule()
    abar, beta = betas_of(schedule)
    steps, i = ReverseSteps(schedule.levels), torch.tensor([1, 2, 10, 500, 999])
    x_0, guess, v = (
        torch.randn(5, 6).double(),
        torch.randn(5, 6).double(),
        torch.randn(5, 6).double(),
    )
    x_vp = torch.randn(5, 6).double()
    a, b, before = abar[i][:, None], beta[i][:, None], abar[i - 1][:, None]

    def mean(clean):  # equation 7 of Ho et al.
        first = before.sqrt() * b / (1 - a) * clean
        return first + (1 - b).sqrt() * (1 - before) / (1 - a) * x_vp

    lowest = (1 - before) / (1 - a) * b
    learned = ((v + 1) / 2 * b.log() + (1 - v) / 2 * lowest.log()).exp()
    true = Normal(mean(x_0), lowest.sqrt())
    reference = kl_divergence(true, Normal(mean(guess), learned.sqrt())) / math.log(2)
    ratio, lower, upper = (s[i][:, None] for s in (steps.ratio, steps.log_lower, steps.log_upper))
    ours = variational_bound(guess - x_0, log_variance(v, lower, upper), ratio, lower, x_0)
    assert torch.allclose(ours, reference, rtol=1e-9)


def test_the_last_term_of_the_bound_is_the_likelihood_of_a_grey_level():
    schedule = DiscreteSchedule()
    _, beta = betas_of(schedule)
    steps = ReverseSteps(schedule.levels)
    # DDPM's beta~ of step 0 is 0; its logarithm is taken from step 1.
    abar, _ = betas_of(schedule)
    lowest = (1 - abar[0]) / (1 - abar[1]) * beta[1]
    assert math.exp(steps.log_lower[0]) == pytest.approx(float(lowest), rel=1e-9)
    assert math.exp(steps.log_upper[0]) == pytest.approx(float(beta[0]), rel=1e-9)
    x_0 = torch.tensor([-1.0, 0.5, 1.0]).double()
    error, log_p = torch.tensor([0.01, -0.02, 0.0]).double(), torch.tensor(-9.0).double()
    zero = torch.zeros(()).double()
    ours = variational_bound(error, log_p.expand(3), zero, steps.log_lower[0], x_0)
    normal = Normal(x_0 + error, math.exp(-4.5))
    above, below = normal.cdf(x_0 + 1 / 255), normal.cdf(x_0 - 1 / 255)
    above[2], below[0] = 1, 0
    assert torch.allclose(ours, -(above - below).log2(), rtol=1e-9)
    # All grey levels together have probability 1.
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    error = 0.3 - levels
    terms = variational_bound(error, log_p.expand(256), zero, steps.log_lower[0], levels)
    assert float((2**-terms).sum()) == pytest.approx(1.0, abs=1e-9)
    open_ends = variational_bound(
        error, log_p.expand(256), zero, steps.log_lower[0], levels, bounded=False
    )
    assert torch.allclose(open_ends[1:-1], terms[1:-1])


@pytest.mark.parametrize("num_steps", [1000, 250, 7])
def test_the_reverse_step_is_that_of_diffusers(num_steps):
    from diffusers import DDPMScheduler

    schedule = DiscreteSchedule()
    scheduler = DDPMScheduler(
        variance_type="learned_range", clip_sample=False, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(num_steps)
    sampler = AncestralSampler(num_steps=num_steps, schedule=schedule)
    steps, times = ReverseSteps(sampler.levels), scheduler.timesteps.flip(0)
    assert torch.allclose(schedule.levels[times], sampler.levels)
    x, x_0, v = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    for i in {1, num_steps // 2, num_steps - 1}:
        sigma, below = float(sampler.levels[i]), float(sampler.levels[i - 1])
        alpha, alpha_below = (1 / math.sqrt(1 + s**2) for s in (sigma, below))
        out = torch.cat(((x - x_0) / sigma, v), dim=1)
        generator = torch.Generator().manual_seed(5)
        theirs = scheduler.step(out, times[i], alpha * x, generator=generator).prev_sample
        noise = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(5))
        mean = torch.lerp(x_0, x, float(steps.ratio[i]))
        log_p = log_variance(v, float(steps.log_lower[i]), float(steps.log_upper[i]))
        ours = alpha_below * (mean + (log_p / 2).exp() * noise)
        assert torch.allclose(ours, theirs, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("num_steps", [1000, 7])
def test_without_a_learned_variance_the_step_has_the_posterior_s(num_steps):
    """beta~ = sigma'^2 (1 - sigma'^2 / sigma^2), diffusers' "fixed_small", not beta: the first
    steps of the loop, with the same noise."""
    from diffusers import DDPMScheduler

    ideal = gaussian()[0].float()
    scheduler = DDPMScheduler(
        variance_type="fixed_small", clip_sample=False, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(num_steps)
    sampler, process = AncestralSampler(num_steps=num_steps), GaussianProcess()
    start = sampler.sigma_start * process.noise(torch.empty(3, 1, 1, 4), SeededNoise([1, 2, 3]))
    ours = sampler.path(ideal, process, start, SeededNoise([4, 5, 6]))
    source, x = SeededNoise([4, 5, 6]), start
    levels = sampler.levels.flip(0)
    for time, sigma, below in zip(scheduler.timesteps[:5], levels[:-1], levels[1:], strict=False):
        alpha, alpha_below = (float((1 + s**2) ** -0.5) for s in (sigma, below))
        noise = process.noise(x, source)
        out = (x - ideal(x, float(sigma)).x_0) / float(sigma)
        seeded = torch.Generator().manual_seed(0)
        drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        theirs = scheduler.step(out, time, alpha * x, generator=seeded).prev_sample
        # The scheduler draws its own noise: in its place stands that of the images.
        spread = scheduler._get_variance(time) ** 0.5
        x = (theirs + spread * (noise - drawn)) / alpha_below
        assert torch.allclose(next(ours).x, x, rtol=1e-3, atol=1e-3)


class WithVariance(torch.nn.Module):
    """A network that returns the noise of an ideal denoiser, and some v of the place."""

    def __init__(self):
        super().__init__()
        self.config = dataclasses.replace(TINY_TRANSFORMER, channels=1, num_classes=0)
        self.ideal = gaussian()[0].float()

    def forward(self, x, time, class_labels=None):
        sigma = float(DiscreteSchedule().levels[int(time[0].round())])
        x = x * math.sqrt(1 + sigma**2)
        noise = (x - self.ideal(x, sigma).x_0) / sigma
        return torch.cat((noise, noise.sin()), dim=1)


def test_the_whole_way_is_that_of_diffusers():
    denoiser, process = VPDenoiser(WithVariance(), ADM_DIFFUSION), GaussianProcess()
    scheduler = scheduler_of("DDPMScheduler", ADM_DIFFUSION, learned_variance=True)
    assert scheduler.config.variance_type == "learned_range"
    results = []
    for sampler in (AncestralSampler(num_steps=50), SchedulerSampler(scheduler, num_steps=50)):
        source = SeededNoise([1, 2, 3])
        start = sampler.sigma_start * process.noise(torch.empty(3, 1, 1, 4), source)
        results.append(sampler(denoiser, process, start, source))
    assert deviation(*results) < 1e-3


def test_ddpm_keeps_the_data_s_variance():
    # Of Gaussian data with the ideal denoiser, ancestral steps end with the data's variances but
    # for discretisation: 200 steps, 4 dimensions.
    ideal, mean, covariance = gaussian()
    n = 4000
    source = SeededNoise(mix(3, i) for i in range(n))
    process, sampler = GaussianProcess(), AncestralSampler(num_steps=200)
    start = sampler.sigma_start * process.noise(torch.empty(n, 1, 1, 4).double(), source)
    out = sampler(ideal, process, start, source).flatten(1)
    spread = torch.cov((out - mean).T)
    # A variance over n draws has a relative standard deviation of sqrt(2 / n): 5 of those, and 2 %.
    allowed = 5 * math.sqrt(2 / n) + 0.02
    assert torch.allclose(spread.diag(), covariance.diag(), rtol=allowed)


def test_the_hybrid_loss_trains_the_variance_and_only_it_by_the_bound():
    network = awake(DiffiTTransformer(TINY_TRANSFORMER))
    denoiser = VPDenoiser(network, ADM_DIFFUSION)
    hybrid = DenoisingObjective(
        schedule=DiscreteSchedule(), weighting=VPPreconditioning("eps"), hybrid=True, bounded=False
    )
    plain = dataclasses.replace(hybrid, hybrid=False)
    x_0, source = torch.randn(3, 4, 8, 8), SeededNoise(range(3))
    batch = hybrid.draw(x_0, torch.zeros(3).long(), source)
    with_bound, without = (o.loss(denoiser, batch) for o in (hybrid, plain))
    assert (with_bound > without).all()
    ours, reference = (
        torch.autograd.grad(loss.sum(), network.head.weight, retain_graph=True)[0].view(4, 8, -1)
        for loss in (with_bound, without)
    )
    assert torch.allclose(ours[:, :4], reference[:, :4], atol=1e-5)
    assert reference[:, 4:].abs().max() == 0
    assert ours[:, 4:].abs().min() > 0


def test_the_hybrid_loss_adds_n_thousandths_of_the_bound():
    """N / 1000 L_t (Nichol & Dhariwal 2021, equation 16, their lambda times N), with L_t from
    torch's own divergence of two Gaussians."""
    torch.manual_seed(0)
    network = awake(DiffiTTransformer(TINY_TRANSFORMER))
    schedule = DiscreteSchedule(num_steps=40)
    denoiser = VPDenoiser(network, VPPreconditioning("eps", schedule, 39.0))
    hybrid = DenoisingObjective(
        schedule=schedule, weighting=VPPreconditioning("eps"), hybrid=True, bounded=False
    )
    plain = dataclasses.replace(hybrid, hybrid=False)
    x_0 = torch.randn(64, 4, 8, 8)
    batch = hybrid.draw(x_0, torch.zeros(64).long(), SeededNoise(range(64)))
    with torch.no_grad():
        added = hybrid.loss(denoiser, batch) - plain.loss(denoiser, batch)
        sigma = batch["sigma"]
        x = x_0 + sigma[:, None, None, None] * batch["noise"]
        estimate = denoiser(x, sigma, batch.get("class_labels"))
    levels = schedule.levels
    i = (levels[None] - sigma[:, None]).abs().argmin(dim=1)
    kept = i > 0  # step 0's term is a likelihood, tested above
    high, low = (levels[k][:, None, None, None] for k in (i[kept], i[kept] - 1))
    share = low**2 / high**2
    lowest = low**2 * (1 - share)
    beta = (1 + low**2) * (high**2 - low**2) / (1 + high**2)
    v = estimate.variance[kept].double()
    learned = ((v + 1) / 2 * beta.log() + (1 - v) / 2 * lowest.log()).exp()
    true = Normal(share * x[kept] + (1 - share) * x_0[kept], lowest.sqrt())
    guess = Normal(share * x[kept] + (1 - share) * estimate.x_0[kept], learned.sqrt())
    bits = kl_divergence(true, guess).mean(dim=(1, 2, 3)) / math.log(2)
    assert kept.sum() > 50
    assert torch.allclose(added[kept].double(), 40 / 1000 * bits, rtol=2e-3)


def test_the_bound_teaches_the_true_variance():
    # With the mean held at the truth the bound is lowest at v = -1, the posterior's own variance.
    steps = ReverseSteps(DiscreteSchedule().levels)
    v = torch.linspace(-1, 1, 21).double()
    for i in (1, 10, 100):
        lower, upper = steps.log_lower[i], steps.log_upper[i]
        terms = variational_bound(
            torch.zeros(21).double(), log_variance(v, lower, upper), steps.ratio[i], lower, v
        )
        assert terms.argmin() == 0
        assert float(terms[0]) == pytest.approx(0.0, abs=1e-12)
        assert (terms.diff() > 0).all()


def test_discrete_times_are_drawn_alike():
    schedule, n = DiscreteSchedule(num_steps=10), 20_000
    t = schedule.drawn(SeededNoise(mix(5, i) for i in range(n)).uniform())
    counts = torch.bincount((t * 9).round().long(), minlength=10)
    # Binomial: 5 standard deviations, exceeded in one of ten with probability 6e-6.
    assert (counts - n / 10).abs().max() < 5 * math.sqrt(n * 0.1 * 0.9)
    assert torch.allclose(schedule.sigma(t).unique(), schedule.levels)


# Guidance.


def test_the_power_cosine_starts_at_nothing_and_ends_at_the_scale():
    settings = GuidanceSettings(scale=4.6, power=4.0)
    assert settings.scale_at(0.0) == pytest.approx(4.6)
    assert settings.scale_at(0.999) == pytest.approx(1.0)
    assert settings.scale_at(0.35) == pytest.approx(1 + 3.6 * (1 - math.cos(math.pi * 0.65**4)) / 2)


class Counted(VPDenoiser):
    def __init__(self):
        super().__init__(awake(DiffiTTransformer(TINY_TRANSFORMER)), ADM_DIFFUSION)
        self.batches = []

    def forward(self, x, sigma, class_labels=None):
        self.batches.append(len(x))
        return super().forward(x, sigma, class_labels)


def test_guided_channels_and_no_others_are_guided():
    model = Counted()
    x, labels = torch.randn(2, 4, 8, 8), torch.tensor([0, 2])
    with torch.no_grad():
        own, null = model(x, 1.0, labels), model(x, 1.0, torch.full_like(labels, 3))
        out = GuidedDenoiser(model, GuidanceSettings(3.0, channels=(1, 3)))(x, 1.0, labels)
    # Both halves went through the network in one batch, which rounds otherwise.
    assert torch.allclose(out.x_0[:, [0, 2]], own.x_0[:, [0, 2]], atol=1e-5)
    reference = null.x_0 + 3 * (own.x_0 - null.x_0)
    assert torch.allclose(out.x_0[:, [1, 3]], reference[:, [1, 3]], atol=1e-4)
    assert torch.allclose(out.variance, own.variance, atol=1e-6)
    assert model.batches == [2, 2, 4]


def test_the_null_class_is_asked_only_where_guidance_acts():
    model, labels = Counted(), torch.tensor([0, 2])
    guided = GuidedDenoiser(model, GuidanceSettings(4.6, interval=(0.5, 50.0), power=4.0))
    # At sigma 40 the step is number 836 and the scale 1.000005; at 80, outside.
    for sigma in (0.4, 0.6, 40.0, 80.0):
        guided(torch.randn(2, 4, 8, 8), sigma, labels)
    assert model.batches == [2, 4, 4, 2]
    near_noise = GuidedDenoiser(model, GuidanceSettings(4.6, power=4.0))
    near_noise(torch.randn(2, 4, 8, 8), float(DiscreteSchedule().levels[950]), labels)
    assert model.batches[-1] == 2  # in float32 the scale is 1


def test_guidance_refuses_what_has_no_meaning():
    model = Counted()
    for wrong in ({"channels": ()}, {"channels": (0, 0)}, {"channels": (-1,)}, {"power": 0.0}):
        with pytest.raises(ValueError, match="guidance"):
            GuidanceSettings(2.0, **wrong)
    edm = EDMDenoiser(model.network)
    with pytest.raises(ValueError, match="no steps whose number the power"):
        GuidedDenoiser(edm, GuidanceSettings(2.0, power=4.0))


# Pipelines.


@pytest.fixture
def pipe():
    return LatentDiffiTPipeline(
        awake(DiffiTTransformer(TINY_TRANSFORMER)),
        AncestralSampler(num_steps=5),
        preconditioning=ADM_DIFFUSION,
        guidance=GuidanceSettings(scale=20.0, channels=(0, 1, 2), power=4.0),
        vae=tiny_vae(),
        precision="fp32",
    )


def test_a_latent_pipeline_is_saved_whole(pipe, tmp_path):
    images = pipe(seeds=range(3), class_labels=1)
    assert images[0].size == (16, 16)
    pipe.save_pretrained(tmp_path / "model")
    again = load_pipeline(tmp_path / "model")
    again.precision = "fp32"
    assert isinstance(again, LatentDiffiTPipeline)
    assert (again.guidance, again.resolution, again.channels) == (pipe.guidance, 16, 3)
    for a, b in zip(images, again(seeds=range(3), class_labels=1), strict=True):
        assert a.tobytes() == b.tobytes()
    *_, guided = again.path([0], 1)
    *_, asked = again.path([0], 1, guidance_scale=20.0)
    *_, unguided = again.path([0], 1, guidance_scale=1.0)
    assert torch.equal(guided.x, asked.x)
    assert (guided.x - unguided.x).abs().max() > 1e-4


def test_images_do_not_depend_on_the_batch(pipe):
    together = torch.cat([b.images for b in pipe.stream(range(5), batch_size=5)])
    apart = torch.cat([b.images for b in pipe.stream(range(5), batch_size=2)])
    assert int((together.int() - apart.int()).abs().max()) <= 1


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]
)
def test_schedulers_sample_it(pipe, name):
    pipe.sampler = SchedulerSampler(scheduler_of(name, pipe.preconditioning), 6)
    images = torch.cat([b.images for b in pipe.stream(range(2))])
    assert images.shape == (2, 3, 16, 16)
    assert images.float().std() > 1


def test_the_transformer_runs_in_diffusers_own_pipeline():
    from diffusers import DDIMScheduler

    network = awake(DiffiTTransformer(dataclasses.replace(TINY_TRANSFORMER, num_classes=1000)))
    pipe = LatentDiffiTPipeline(
        network, preconditioning=ADM_DIFFUSION, vae=tiny_vae(), precision="fp32"
    )
    scheduler = DDIMScheduler(clip_sample=False)
    foreign = dit_pipeline(pipe, scheduler)
    foreign.set_progress_bar_config(disable=True)
    theirs = foreign(
        class_labels=[3, 999],
        guidance_scale=1.0,
        num_inference_steps=8,
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
    ).images
    pipe.sampler = SchedulerSampler(scheduler, num_steps=8)
    ours = pipe(seeds=[5, 6], class_labels=[3, 999])
    for a, b in zip(ours, theirs, strict=True):
        values = (torch.tensor(list(image.tobytes())) for image in (a, b))
        assert int((next(values) - next(values)).abs().max()) <= 1
    with pytest.raises(OvertoneError, match="1000 classes written in, this model has 3"):
        dit_pipeline(
            LatentDiffiTPipeline(
                DiffiTTransformer(TINY_TRANSFORMER), preconditioning=ADM_DIFFUSION
            ),
            scheduler,
        )


def test_a_denoiser_of_diffusers_dit_takes_guidance_in_three_channels():
    # Our settings on their network.
    from diffusers import DDPMScheduler, DiTTransformer2DModel

    from overtone.denoisers import DiffusersDenoiser

    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1,
        sample_size=8, num_embeds_ada_norm=7, norm_num_groups=2,
    ).eval()  # fmt: skip
    denoiser = DiffusersDenoiser(model, DDPMScheduler())
    x, labels = torch.randn(2, 4, 8, 8), torch.tensor([0, 6])
    settings = GuidanceSettings(4.0, channels=(0, 1, 2), power=4.0)
    with torch.no_grad():
        out, own = GuidedDenoiser(denoiser, settings)(x, 1.0, labels), denoiser(x, 1.0, labels)
    assert torch.allclose(out.x_0[:, 3], own.x_0[:, 3], atol=1e-5)
    assert not torch.allclose(out.x_0[:, :3], own.x_0[:, :3], atol=1e-5)


# Conversion.


def test_convert_writes_a_pipeline_and_a_certificate(tmp_path, capsys):
    golden, state, network = published("diffit_latent")
    save_tensors(tmp_path / "published.safetensors", state)
    main(
        ["convert", "diffit-latent", str(tmp_path / "published.safetensors"), str(tmp_path / "out")]
    )
    pipe = load_pipeline(tmp_path / "out")
    with torch.no_grad():
        out = pipe.network(golden["in.sample"], golden["in.timestep"], golden["in.class_labels"])
    assert deviation(out, golden["out.sample"]) < 2e-6
    assert pipe.sampler == AncestralSampler(num_steps=250)
    proof = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert proof["parameters"] == network.num_parameters
    assert len(proof["keys_mapped"]) == len(network.state_dict())
    assert set(proof["keys_left"]) == {
        "pos_embed",
        "blocks.0.attn.relative_position_index",
        "blocks.1.attn.relative_position_index",
    }
    assert sorted(proof["keys_mapped"] | proof["keys_left"]) == sorted(state)
    with pytest.raises(OvertoneError, match="no VAE was saved with it"):
        pipe(seeds=[0])


def test_weights_of_something_else_are_refused():
    golden, state, _ = published("diffit_latent")
    for change, message in (
        (
            {"blocks.0.adaLN.weight": torch.ones(2)},
            "'blocks.0.adaLN.weight' is none of its tensors",
        ),
        ({"pos_embed": torch.zeros(1, 16, 48)}, "pos_embed is not the fixed"),
        ({"blocks.1.attn.relative_position_index": torch.zeros(16, 16)}, "is not the index of a 4"),
        ({"blocks.1.mlp.fc1.weight": torch.zeros(7, 48)}, "tensor 'blocks.1.mlp.0.weight' is"),
    ):
        with pytest.raises(OvertoneError, match=message):
            from_published("diffit-latent", state | change)
    less = {name: tensor for name, tensor in state.items() if "blocks.1.mlp" not in name}
    with pytest.raises(OvertoneError, match="4 tensors missing"):
        from_published("diffit-latent", less)
    with pytest.raises(OvertoneError, match="depth is 28, but the weights have 2"):
        from_published("diffit-latent", state, golden.config | {"depth": 28})
    with pytest.raises(OvertoneError, match="not the weights of a latent DiffiT"):
        from_published("diffit-latent", Golden("adm_edm_precond").state)
    with pytest.raises(OvertoneError, match="unknown kind of checkpoint 'diffit'"):
        from_published("diffit", state)


def test_learned_variance_is_of_discrete_steps():
    with pytest.raises(ValueError, match="of the steps of a discrete schedule"):
        _ = DenoisingObjective(hybrid=True).steps
    with pytest.raises(ValueError, match=r"num_steps 0 is not in \[1, 1000\]"):
        AncestralSampler(num_steps=0)
    x = torch.randn(2, 4, 8, 8)
    estimate = VPDenoiser(awake(DiffiTTransformer(TINY_TRANSFORMER)), VPPreconditioning())(x, 1.0)
    assert isinstance(estimate, Estimate)
    assert estimate.variance.shape == x.shape
