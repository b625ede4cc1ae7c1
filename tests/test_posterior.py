"""Learned variance, against DDPM's formulas in its own frame and against diffusers."""

import dataclasses
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from helpers import DIFFUSERS_MARKS, TINY_TRANSFORMER, awake, deviation, gaussian
from overtone.denoisers import ADM_DIFFUSION, Estimate, VPDenoiser, VPPreconditioning
from overtone.networks import DiffiTTransformer
from overtone.processes import DiscreteSchedule, GaussianProcess, SeededNoise
from overtone.processes.noise import mix
from overtone.processes.posterior import ReverseSteps, log_variance, variational_bound
from overtone.samplers import AncestralSampler, SchedulerSampler, scheduler_of
from overtone.training.objectives import DenoisingObjective

pytestmark = DIFFUSERS_MARKS


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


def test_ddpm_begins_with_unit_variance_in_its_own_frame():
    """x / sqrt(1 + sigma^2) of the start is N(0, 1) at the schedule's last step, whatever the
    number of steps taken."""
    for num_steps in (1, 7, 1000):
        sampler = AncestralSampler(num_steps=num_steps)
        last = DiscreteSchedule().sigmas[-1]
        assert sampler.sigma_start == pytest.approx(math.sqrt(1 + last**2), rel=1e-12)
        assert max(sampler.sigmas) == last


@pytest.mark.slow
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


def test_learned_variance_is_of_discrete_steps():
    with pytest.raises(ValueError, match="of the steps of a discrete schedule"):
        _ = DenoisingObjective(hybrid=True).steps
    with pytest.raises(ValueError, match="num_steps must be at least 1, not 0"):
        AncestralSampler(num_steps=0)
    x = torch.randn(2, 4, 8, 8)
    estimate = VPDenoiser(awake(DiffiTTransformer(TINY_TRANSFORMER)), VPPreconditioning())(x, 1.0)
    assert isinstance(estimate, Estimate)
    assert estimate.variance.shape == x.shape
