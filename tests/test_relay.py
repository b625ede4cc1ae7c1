"""Blur and block noise: their matrices written out, their shares of the spectrum."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.fft import dctn, idctn
from torch.nn.functional import avg_pool2d, interpolate

from helpers import Golden, deviation
from overtone.denoisers import Denoiser, Estimate, GuidedDenoiser, IdealDenoiser
from overtone.processes import (
    GaussianProcess,
    Process,
    QuantileSchedule,
    RelayProcess,
    ReplayNoise,
    SeededNoise,
)
from overtone.processes.patches import block_noise, patch_dct, patch_idct
from overtone.samplers import Sampler
from overtone.training.objectives import DenoisingObjective

ESTIMATES = ("single", "averaged_slopes", "averaged_estimates", "two_step")


def test_operators_give_the_published_numbers():
    golden = Golden("relay_operators")
    assert deviation(patch_dct(golden["dct.in"], 4), golden["dct.out"]) < 1e-15
    assert deviation(patch_idct(golden["dct.out"], 4), golden["idct.out"]) < 1e-15
    for size in (2, 4):
        config = golden.config[f"alpha.s{size}"]
        process = RelayProcess(
            patch=config["patch"],
            blur_sigma_max=config["blur_sigma_max"],
            min_scale=config["min_scale"],
            schedule=QuantileSchedule(prob_length=config["prob_length"]),
        )
        kept = process.kept(golden["sigma"])
        assert deviation(kept.float(), golden[f"alpha.s{size}"]) < 1e-6
        noise = block_noise(golden["block.white"], size)
        assert deviation(noise, golden[f"block.s{size}"]) < 1e-6
    process = RelayProcess()
    half = float(process.schedule.sigma(0.5))  # where sigma_B is 3 / 2, the reference's 1.5
    assert deviation(process.mean(golden["blur.in"], half), golden["blur.out.sigma1.5"]) < 1e-6


class Shrink(Denoiser):
    """D(x; sigma) = x 0.25 / (0.25 + sigma^2), as the reference was computed with."""

    def forward(self, x, sigma, class_labels=None):
        return Estimate(x * (0.25 / (0.25 + sigma**2))[:, None, None, None])


def test_the_loss_gives_the_published_numbers():
    golden = Golden("relay_loss")
    schedule = QuantileSchedule(prob_length=0.93, truncate_sigma=0.0075)
    process = RelayProcess(normalised=False, schedule=schedule)
    draws = [golden["in.noise.white"], golden["in.noise.block_white"]]
    sigma = schedule.sigma(schedule.drawn(golden["in.uniform"].flatten().double())).float()
    images = golden["in.images"]
    noise = process.noise(images, ReplayNoise(draws))
    corrupted = process.mean(images, sigma) + sigma[:, None, None, None] * noise
    assert deviation(sigma, golden["out.sigma"].flatten()) < 1e-6
    assert deviation(corrupted, golden["out.corrupted"]) < 1e-5
    objective = DenoisingObjective(schedule=schedule, process=process)
    loss = objective.loss(Shrink(), {"x_0": images, "sigma": sigma, "noise": noise})
    assert deviation(loss, golden["out.loss"].mean(dim=(1, 2, 3))) < 1e-5


class Probe(Denoiser):
    """The analytic denoiser that the reference samplers were run with: class 1 is the null."""

    num_classes = 1

    def forward(self, x, sigma, class_labels=None):
        k = 0.25 / (0.25 + sigma**2)
        mu = torch.full((len(x),), 0.1) if class_labels is None else 0.4 - 0.3 * class_labels
        return Estimate(x * k + mu[:, None, None, None] * (1 - k) * torch.cos(3 * x))


@pytest.mark.parametrize("name", ["relay_sampler", "relay_sampler_cfg", "relay_sampler_ode"])
def test_the_sampler_gives_the_published_numbers(name):
    golden = Golden(name)
    config = golden.config
    process = RelayProcess(
        patch=config["up_scale"],
        blur_sigma_max=config["blur_sigma_max"],
        block_scale=config["s_block"],
        normalised=False,
        schedule=QuantileSchedule(prob_length=config["truncation_t"]),
    )
    sampler = Sampler(
        num_steps=config["num_steps"],
        sigma_min=config["sigma_min"],
        sigma_max=config["sigma_max"],
        rho=config["rho"],
        truncation_sigma=config["truncation_sigma"],
        eta=config["s_noise"],
        estimate="averaged_slopes",
    )
    denoiser, labels = Probe(), None
    if config["cfg_scale"] != 1:
        denoiser, labels = GuidedDenoiser(denoiser, config["cfg_scale"]), torch.tensor([0])
    source = ReplayNoise(golden["in.noises"])
    upsampled = golden["in.start"]
    start = upsampled + sampler.sigma_start * process.noise(upsampled, source)
    out = sampler(denoiser, process, start, source, labels)
    assert deviation(out, golden["out.sample"]) < 1e-6
    if config["s_noise"]:
        with pytest.raises(ValueError, match="recorded"):
            source.normal(start)  # every draw was used


@pytest.mark.parametrize(("size", "shape"), [(1, (3, 5)), (2, (6, 10)), (3, (9, 6)), (4, (8, 20))])
def test_the_patch_transform_is_scipy_s_and_has_an_inverse(size, shape):
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    u = patch_dct(x, size)
    for row, column in ((0, 0), (shape[0] - size, shape[1] - size)):
        here = (..., slice(row, row + size), slice(column, column + size))
        assert torch.allclose(u[here], torch.from_numpy(dctn(x[here], axes=(2, 3), norm="ortho")))
        back = torch.from_numpy(idctn(u[here].numpy(), axes=(2, 3), norm="ortho"))
        assert torch.allclose(back, x[here])
    assert torch.allclose(patch_idct(u, size), x)


def test_the_process_begins_at_the_image_and_ends_at_patch_means():
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    process = RelayProcess()
    assert torch.allclose(process.mean(x, 0.0), x, atol=1e-14)
    end = float(process.schedule.sigma(1.0))
    u, kept = patch_dct(x, 4), patch_dct(process.mean(x, end), 4)
    decay = torch.exp(-((math.pi * torch.arange(4) / 4).double() ** 2) * 9 / 2)
    expected = (1 - 0.001) * torch.outer(decay, decay) + 0.001
    assert expected[0, 1] == pytest.approx(0.063, abs=1e-3)  # the paper's process joins so far
    assert torch.allclose(kept, u * expected.repeat(2, 3), atol=1e-14)
    means = interpolate(avg_pool2d(x, 4), scale_factor=4)
    far = RelayProcess(blur_sigma_max=30.0, min_scale=0.0)
    assert torch.allclose(far.mean(x, end), means, atol=1e-12)
    # What lies past the schedule's end is as blurred as its end.
    assert torch.equal(process.mean(x, end), process.mean(x, 10 * end))


def test_a_sigma_an_image_is_each_image_s_own():
    x, process = torch.randn(3, 2, 8, 8), RelayProcess()
    sigma = torch.tensor([0.02, 0.3, 0.8])
    alone = [process.mean(x[i : i + 1], float(sigma[i])) for i in range(3)]
    assert torch.allclose(process.mean(x, sigma), torch.cat(alone), atol=1e-6)


def test_one_pass_is_the_formula():
    process = RelayProcess()
    x, x_0 = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64)
    expected = Process.reverse(process, x, x_0, 0.7, 0.2, 0.25)
    assert torch.allclose(process.reverse(x, x_0, 0.7, 0.2, 0.25), expected, atol=1e-14)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8])
def test_block_noise_has_the_spectrum_of_its_square(size):
    """Circular: its transform is white noise's times that of a square, in closed form."""
    white = torch.randn(1, 1, 8, 12, dtype=torch.float64)
    gain = [
        sum(
            torch.exp(-2j * math.pi * torch.arange(n, dtype=torch.float64) * i / n)
            for i in range(size)
        )
        for n in (8, 12)
    ]
    expected = torch.fft.fft2(white) * torch.outer(*gain) / size
    assert torch.allclose(torch.fft.fft2(block_noise(white, size)), expected, atol=1e-10)


def test_block_noise_has_the_covariance_of_the_formula():
    """Of each of 64 x 64 pairs of pixels: beyond six standard errors in one test of 2e5."""
    n, size, side = 20_000, 4, 8
    noise = block_noise(torch.randn(n, 1, side, side), size).flatten(1)
    away = torch.arange(side)
    away = torch.minimum(away, side - away)
    share = (size - away).clamp(min=0) / size
    places = torch.arange(side)
    axis = share[(places[:, None] - places) % side]
    expected = torch.kron(axis, axis)
    # Var of a product of two unit Gaussians of covariance c is 1 + c^2.
    error = (noise.T @ noise / n - expected).abs() / ((1 + expected**2) / n).sqrt()
    assert float(error.max()) < 6


@pytest.mark.parametrize(("normalised", "variance"), [(True, 1.0), (False, 1.0225)])
def test_the_noise_has_the_variance_it_says(normalised, variance):
    process = RelayProcess(normalised=normalised)
    noise = process.noise(torch.empty(256, 3, 32, 32), SeededNoise(range(256)))
    # 8e5 values, correlated in blocks: the standard error of their variance is below 2e-3.
    assert float(noise.var()) == pytest.approx(variance, abs=0.01)


def test_autocast_leaves_the_process_in_float32():
    process = RelayProcess()
    x, x_0 = torch.randn(2, 2, 3, 8, 8)
    expected = process.reverse(x, x_0, 0.02, 0.01, 0.5), process.mean(x_0, 0.02)
    with torch.autocast("cpu", torch.bfloat16):
        found = process.reverse(x, x_0, 0.02, 0.01, 0.5), process.mean(x_0, 0.02)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_without_blur_and_blocks_it_is_edm():
    process = RelayProcess(patch=1, block_scale=0.0)
    start = 80 * torch.randn(2, 3, 5, 7, dtype=torch.float64)
    for estimate in ESTIMATES:
        sampler = Sampler(estimate=estimate)
        ours, edm = (
            sampler(Probe(), p, start, SeededNoise([])) for p in (process, GaussianProcess())
        )
        assert deviation(ours, edm) < 1e-12


class Diagonal(Denoiser):
    """The exact posterior mean of images whose patch coefficients are independent N(0, c)."""

    def __init__(self, process, variances):
        super().__init__()
        self.process, self.variances = process, variances

    def forward(self, x, sigma, class_labels=None):
        kept = self.process.kept(sigma).repeat(2, 2)
        gain = kept * self.variances / (kept**2 * self.variances + sigma**2)
        return Estimate(patch_idct(patch_dct(x, 4) * gain, 4))


def flow_errors(estimate, steps):
    """Largest distance from the probability flow, which keeps u / sqrt(D^2 c + sigma^2)."""
    generator = torch.Generator().manual_seed(3)
    process = RelayProcess()
    variances = torch.rand(8, 8, generator=generator, dtype=torch.float64) + 0.05
    denoiser = Diagonal(process, variances)
    start = torch.randn(16, 1, 8, 8, generator=generator, dtype=torch.float64)

    def scale(sigma):
        return (process.kept(sigma).repeat(2, 2) ** 2 * variances + sigma**2).sqrt()

    exact = patch_idct(patch_dct(start, 4) / scale(0.9) * scale(0.02), 4)
    errors = []
    for n in steps:
        sampler = Sampler(num_steps=n, sigma_min=0.02, sigma_max=0.9, estimate=estimate)
        *_, before_last, _ = sampler.path(denoiser, process, start, SeededNoise([]))
        errors.append(float((before_last.x - exact).abs().max()))
    return errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimate", "order"),
    [("single", 1), ("averaged_slopes", 1), ("averaged_estimates", 2), ("two_step", 2)],
)
def test_measured_order_under_blur(estimate, order):
    for coarse, fine in pairwise(flow_errors(estimate, (128, 256, 512))):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


def test_the_two_step_form_is_closest_at_equal_evaluations():
    (two_step,), (single,) = flow_errors("two_step", (32,)), flow_errors("single", (32,))
    (slopes,), (estimates,) = (
        flow_errors(e, (16,)) for e in ("averaged_slopes", "averaged_estimates")
    )
    assert two_step < 0.2 * min(single, slopes, estimates)


@pytest.mark.parametrize("estimate", ["single", "averaged_estimates", "two_step"])
def test_noise_drawn_anew_keeps_the_noise_level(estimate):
    """With the true image as the estimate, x stays mean(x_0, sigma) + sigma noise: its variance
    over 3e5 values, correlated in blocks, is within 2 % by five standard errors."""

    class Known(Denoiser):
        def forward(self, x, sigma, class_labels=None):
            return Estimate(truth.expand_as(x))

    truth = torch.randn(1, 1, 16, 16)
    process, source = RelayProcess(), SeededNoise(range(1024))
    sampler = Sampler(num_steps=8, sigma_max=0.9, eta=0.3, estimate=estimate)
    like = torch.empty(1024, 1, 16, 16)
    start = process.mean(truth, 0.9) + 0.9 * process.noise(like, source)
    for step in list(sampler.path(Known(), process, start, source))[:-1]:
        noise = (step.x - process.mean(truth, step.sigma)) / step.sigma
        assert float(noise.var()) == pytest.approx(1.0, abs=0.02)


def test_churn_is_for_processes_that_do_not_blur():
    """Churn raises sigma by adding noise, which leaves the blur of the lower level: variances came
    out many times too large. Where nothing blurs it adds up exactly."""
    blurring, churning = RelayProcess(), Sampler(num_steps=8, sigma_max=0.9, S_churn=4)
    with pytest.raises(ValueError, match="a RelayProcess blurs as well: take S_churn 0"):
        churning.check_process(blurring)
    start, source = torch.zeros(1, 1, 8, 8), SeededNoise([1])
    with pytest.raises(ValueError, match="S_churn"):
        churning(IdealDenoiser(torch.zeros(1, 1, 8, 8)), blurring, start, source)

    class Known(Denoiser):
        def forward(self, x, sigma, class_labels=None):
            return Estimate(truth.expand_as(x))

    truth = torch.randn(1, 1, 16, 16)
    sharp, source = RelayProcess(blur_sigma_max=0.0), SeededNoise(range(1024))
    start = truth + 0.9 * sharp.noise(torch.empty(1024, 1, 16, 16), source)
    for step in list(churning.path(Known(), sharp, start, source))[:-1]:
        # Its variance over 3e5 values, correlated in blocks, is within 2 % by five standard errors.
        assert float(((step.x - truth) / step.sigma).var()) == pytest.approx(1.0, abs=0.02)


def test_truncated_grids():
    whole = Sampler(num_steps=12, sigma_min=0.008).sigmas
    sampler = Sampler(num_steps=12, sigma_min=0.008, truncation_sigma=0.9)
    assert sampler.sigmas == tuple(s for s in whole if s < 0.9)
    assert sampler.sigma_start == sampler.sigmas[0] < 0.9
    with pytest.raises(ValueError, match="leaves no level"):
        Sampler(truncation_sigma=0.001)


def test_bad_sizes_are_told_of():
    with pytest.raises(ValueError, match="10 x 8 pixels do not divide into patches of 4 x 4"):
        RelayProcess().mean(torch.zeros(1, 1, 10, 8), 0.5)
    with pytest.raises(ValueError, match="blocks of 4 pixels don't fit"):
        block_noise(torch.zeros(1, 1, 8, 2), 4)
    with pytest.raises(ValueError, match="patch must be at least 1, not 0"):
        RelayProcess(patch=0)
    with pytest.raises(ValueError, match=r"block_scale must be at least 0, not -1.0"):
        RelayProcess(block_scale=-1.0)
    with pytest.raises(ValueError, match=r"min_scale must be in \[0, 1\], not 2.0"):
        RelayProcess(min_scale=2.0)
    with pytest.raises(ValueError, match="prob_length"):
        QuantileSchedule(prob_length=0.0)
    with pytest.raises(ValueError, match="truncate_sigma"):
        QuantileSchedule(truncate_sigma=-1.0)
