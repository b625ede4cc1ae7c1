"""Solvers against exact solutions: measured orders, equivalences, churn, bad settings."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch

from helpers import Golden, deviation, gaussian
from overtone.denoisers import Denoiser, Estimate
from overtone.processes import GaussianProcess, ReplayNoise, SeededNoise
from overtone.samplers import Sampler, sigma_grid
from overtone.samplers.estimates import triangle

PROCESS = GaussianProcess()


class Probe(Denoiser):
    """The analytic denoiser that the reference samplers were run with."""

    def forward(self, x, sigma, class_labels=None):
        k = 0.25 / (0.25 + sigma**2)
        return Estimate(x * k + 0.1 * (1 - k) * torch.cos(3 * x))


@pytest.mark.parametrize("name", ["edm_sampler", "edm_sampler_churn"])
def test_edm_sampler_gives_the_published_numbers(name):
    golden = Golden(name)
    names = ("num_steps", "sigma_min", "sigma_max", "rho", "S_churn", "S_min", "S_max", "S_noise")
    sampler = Sampler(**{name: golden.config[name] for name in names})
    start = golden["in.start"] * sampler.sigma_start
    out = sampler(Probe(), PROCESS, start, ReplayNoise(golden["in.noises"]))
    assert out.dtype == torch.float64
    assert deviation(out, golden["out.sample"]) < 1e-14


def flow(x, mean, covariance, sigma, sigma_next):
    """The probability flow of Gaussian data in closed form:

    x(s') = m + (S + s'^2)^(1/2) (S + s^2)^(-1/2) (x(s) - m)
    """
    values, vectors = torch.linalg.eigh(covariance)
    scale = ((values + sigma_next**2) / (values + sigma**2)).sqrt()
    return mean + ((x - mean) @ vectors * scale) @ vectors.T


def flow_errors(estimate, steps):
    denoiser, mean, covariance = gaussian()
    start = 20 * torch.randn(64, 1, 1, 4, dtype=torch.float64)
    errors = []
    for n in steps:
        sampler = Sampler(num_steps=n, sigma_min=0.01, sigma_max=20, rho=7, estimate=estimate)
        *_, before_last, _ = sampler.path(denoiser, PROCESS, start, SeededNoise([]))
        assert before_last.sigma == pytest.approx(0.01)
        exact = flow(start.flatten(1), mean, covariance, 20, 0.01)
        errors.append(float((before_last.x.flatten(1) - exact).abs().max()))
    return errors


@pytest.mark.parametrize(
    ("estimate", "order"),
    [("single", 1), ("averaged_slopes", 2), ("averaged_estimates", 2), ("two_step", 2)],
)
def test_measured_order_against_the_closed_form_flow(estimate, order):
    errors = flow_errors(estimate, (64, 128, 256))
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


def test_three_steps_are_of_third_order():
    # Its first step, of first order, shows from some 256 steps on.
    errors = flow_errors("three_step", (32, 64, 128))
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(3, abs=0.15)


def test_a_parabola_is_solved_exactly():
    """Where the estimate is a parabola in lambda = -ln sigma, whatever x, the step from the third
    one on is the integral in closed form, here by quadrature in float64."""

    class Parabola(Denoiser):
        def forward(self, x, sigma, class_labels=None):
            log = -math.log(sigma)
            return Estimate(torch.full_like(x, 1 + 0.3 * log - 0.2 * log**2))

    levels = (9.0, 5.0, 2.5, 0.7, 0.1)
    sampler = Sampler(num_steps=5, levels=levels, estimate="three_step")
    start = torch.randn(2, 1, 1, 1, dtype=torch.float64)
    steps = list(sampler.path(Parabola(), PROCESS, start, SeededNoise([])))
    for before, after in pairwise(steps[1:4]):
        a, b = -math.log(before.sigma), -math.log(after.sigma)
        at = torch.linspace(a, b, 20_001, dtype=torch.float64)
        integral = torch.trapezoid(at.exp() * (1 + 0.3 * at - 0.2 * at**2), at)
        exact = after.sigma / before.sigma * before.x + after.sigma * integral
        assert torch.allclose(after.x, exact, rtol=1e-8)


@pytest.mark.parametrize("form", ["single", "two_step", "three_step"])
def test_a_multistep_form_is_its_triangle_of_weights(form):
    levels = sigma_grid(7, rho=5.0)[:-1]
    plain = Sampler(num_steps=7, levels=levels, estimate=form)
    told = dataclasses.replace(plain, estimate="weighted", earlier=triangle(form, levels))
    start = 80 * torch.randn(4, 1, 2, 2, dtype=torch.float64)
    for one, other in zip(
        plain.path(Probe(), PROCESS, start, SeededNoise([])),
        told.path(Probe(), PROCESS, start, SeededNoise([])),
        strict=True,
    ):
        assert torch.allclose(one.x, other.x, rtol=1e-13, atol=0)


def test_weights_are_taken_row_by_row_and_the_last_step_has_one():
    class Level(Denoiser):
        def forward(self, x, sigma, class_labels=None):
            return Estimate(torch.full_like(x, sigma))

    sampler = Sampler(
        num_steps=3, levels=(4.0, 2.0, 1.0), estimate="weighted", earlier=(0.5, 0.25, -0.125)
    )
    steps = list(sampler.path(Level(), PROCESS, torch.zeros(1, 1, 1, 1), SeededNoise([])))
    estimates = [float(step.x_0) for step in steps]
    # 2 + 0.5 (4 - 2), and 1 + 0.25 (2 - 1) - 0.125 (4 - 1): the latest estimate comes first.
    assert estimates == [4.0, 3.0, 1 + 0.25 - 0.375]


def test_weights_are_for_their_own_levels():
    levels = sigma_grid(4)[:-1]
    weights = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    sampler = Sampler(num_steps=4, levels=levels, estimate="weighted", earlier=weights)
    assert not sampler.takes_steps
    assert Sampler().takes_steps
    for other in (sampler.with_levels(levels[:3]), sampler.below(levels[1])):
        assert (other.estimate, other.earlier) == ("two_step", ())
    assert sampler.as_ode("heun").earlier == ()
    assert sampler.as_ode() == sampler


@pytest.mark.parametrize("estimate", ["single", "averaged_slopes", "two_step", "three_step"])
def test_an_epsilon_scale_of_1_is_exactly_off(estimate):
    start = 80 * torch.randn(4, 1, 2, 2)
    plain = Sampler(num_steps=6, estimate=estimate)
    one = dataclasses.replace(plain, epsilon_scale=1.0)
    out = [s(Probe(), PROCESS, start, SeededNoise([])) for s in (plain, one)]
    assert torch.equal(*out)


def test_an_epsilon_scale_divides_the_noise_that_is_seen():
    """x' = x + (sigma' - sigma) eps / s, eps = (x - D(x; sigma)) / sigma, down to sigma' = 0."""
    sampler = Sampler(num_steps=5, estimate="single", epsilon_scale=1.01)
    x = 80 * torch.randn(4, 1, 2, 2, dtype=torch.float64)
    steps = sampler.path(Probe(), PROCESS, x, SeededNoise([]))
    for (sigma, sigma_next), step in zip(pairwise(sampler.sigmas), steps, strict=True):
        eps = (x - Probe()(x, sigma).x_0) / sigma
        x = x + (sigma_next - sigma) * eps / 1.01
        assert torch.allclose(step.x, x, rtol=1e-12)


def test_two_step_is_the_best_of_one_evaluation():
    # At equal evaluations: 64 steps of one, against 32 of two.
    (two_step,), (single,) = flow_errors("two_step", (64,)), flow_errors("single", (64,))
    (heun,) = flow_errors("averaged_slopes", (32,))
    assert two_step < heun < single


def test_the_step_is_exact_for_a_constant_estimate():
    class Constant(Denoiser):
        def forward(self, x, sigma, class_labels=None):
            return Estimate(torch.full_like(x, 0.25))

    start = 80 * torch.randn(3, 1, 2, 2, dtype=torch.float64)
    for estimate in ("single", "averaged_slopes", "averaged_estimates", "two_step", "three_step"):
        sampler = Sampler(num_steps=5, estimate=estimate)
        for step in sampler.path(Constant(), PROCESS, start, SeededNoise([])):
            exact = 0.25 + step.sigma / 80 * (start - 0.25)
            assert torch.allclose(step.x, exact, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(num_steps=80),
        Sampler(num_steps=80, estimate="two_step"),
        Sampler(num_steps=80, estimate="averaged_estimates"),
        Sampler(num_steps=80, S_churn=20, S_min=0.01, S_max=10),
    ],
    ids=["slopes", "two_step", "estimates", "churn"],
)
def test_samples_of_the_ideal_denoiser_have_the_datas_moments(sampler):
    """Mean and covariance of 6,000 samples, whitened, against N(0, I).

    Each of the 14 statistics is about N(0, 1): one exceeds 5.2 with probability 2e-7.
    """
    denoiser, mean, covariance = gaussian()
    n = 6000
    source = SeededNoise(range(n))
    like = torch.empty(n, 1, 1, 4, dtype=torch.float64)
    start = sampler.sigma_start * PROCESS.noise(like, source)
    samples = sampler(denoiser, PROCESS, start, source).flatten(1)
    root = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(root, (samples - mean).T, upper=False).T
    means = white.mean(0) * n**0.5
    second = (white.T @ white / n - torch.eye(4)) * n**0.5
    second = second / (1 + torch.eye(4)).sqrt()
    assert float(means.abs().max()) < 5.2
    assert float(second.abs().max()) < 5.2


@pytest.mark.parametrize("eta", [0.2, 1.0])
@pytest.mark.parametrize("estimate", ["single", "averaged_estimates", "two_step"])
def test_noise_drawn_anew_keeps_the_noise_level(estimate, eta):
    """Where the estimate is exact, x - x_0 has standard deviation sigma after every step.

    Of 65,536 values; one of 7 estimates deviates by more than 5.5 standard errors (1.5 %) with
    probability 3e-7. The new noise replaces old, it does not add to it.
    """

    class Exact(Denoiser):
        def forward(self, x, sigma, class_labels=None):
            return Estimate(torch.zeros_like(x))

    sampler = Sampler(num_steps=8, estimate=estimate, eta=eta)
    source = SeededNoise(range(16))
    start = 80 * source.normal(torch.empty(16, 1, 64, 64))
    last = start
    for step in sampler.path(Exact(), PROCESS, start, source):
        if step.sigma:
            assert float(step.x.std()) == pytest.approx(step.sigma, rel=0.0152)
            # And the share that stays is sqrt(1 - eta^2), of correlation.
            kept = float((step.x * last).mean() / (step.x.std() * last.std()))
            assert kept == pytest.approx((1 - eta**2) ** 0.5, abs=0.0215)
            last = step.x


class Counting(Denoiser):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, sigma, class_labels=None):
        assert isinstance(sigma, float)  # a number on the host: nothing waits for a device
        self.calls += 1
        return Estimate(x / 2)


@pytest.mark.parametrize(
    ("estimate", "evaluations"),
    [
        ("single", 6),
        ("averaged_slopes", 11),
        ("averaged_estimates", 11),
        ("two_step", 6),
        ("three_step", 6),
    ],
)
def test_number_of_evaluations(estimate, evaluations):
    denoiser = Counting()
    Sampler(num_steps=6, estimate=estimate)(
        denoiser, PROCESS, torch.randn(1, 1, 2, 2), SeededNoise([])
    )
    assert denoiser.calls == evaluations


def test_deterministic_samplers_draw_nothing():
    start = torch.randn(1, 1, 2, 2)
    Sampler(num_steps=3)(Counting(), PROCESS, start, ReplayNoise([]))
    with pytest.raises(ValueError, match="more noise"):
        Sampler(num_steps=3, eta=0.1)(Counting(), PROCESS, start, ReplayNoise([]))


def test_grid_is_edms():
    grid = sigma_grid(18)
    assert len(grid) == 19
    assert (grid[0], grid[-1]) == (pytest.approx(80), 0.0)
    assert grid[-2] == pytest.approx(0.002)
    assert grid[1] == pytest.approx((80 ** (1 / 7) + (0.002 ** (1 / 7) - 80 ** (1 / 7)) / 17) ** 7)
    assert sigma_grid(1) == (pytest.approx(80), 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, not 0"),
        ({"sigma_min": 90.0}, "sigma_min <= sigma_max"),
        ({"sigma_min": 0.0}, "sigma_min must be above 0, not 0.0"),
        ({"eta": 1.5}, r"eta must be in \[0, 1\], not 1.5"),
        ({"rho": 0.0}, r"rho must be from 0.1 to 1,000, not 0.0"),
        (
            {"estimate": "weighted"},
            "18 steps .* weighted need 153 weights of earlier estimates, not 0",
        ),
        (
            {"earlier": (0.5,)},
            "18 steps .* averaged_slopes need 0 weights of earlier estimates, not 1",
        ),
        ({"epsilon_scale": 0.0}, "epsilon_scale must be above 0"),
        (
            {"num_steps": 2, "estimate": "weighted", "earlier": (0.5,), "S_churn": 1.0},
            "S_churn changes the noise levels",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Sampler(), **change)


@pytest.mark.parametrize(
    "wrong",
    [{"sigma_max": math.inf}, {"sigma_max": math.nan}, {"sigma_min": math.nan},
     {"rho": math.nan}, {"rho": math.inf}, {"num_steps": 10**9}, {"truncation_sigma": math.nan},
     {"eta": math.nan}, {"S_churn": math.inf}, {"S_noise": -1.0}, {"S_max": math.nan},
     {"levels": (math.inf, 1.0), "num_steps": 2}, {"levels": (1.0, math.nan), "num_steps": 2}],
    ids=str,
)  # fmt: skip
def test_numbers_that_are_no_settings(wrong):
    with pytest.raises(
        ValueError, match=r"must be|does not hold|is at most|finite|fall|leaves|in \["
    ):
        Sampler(**wrong)
