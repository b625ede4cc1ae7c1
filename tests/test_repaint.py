"""Sampling what a mask leaves open: its distribution given the rest, and going back."""

import pytest
import torch

from helpers import gaussian
from overtone.denoisers import KeptDenoiser
from overtone.processes import GaussianProcess, SeededNoise
from overtone.samplers import ResamplingSampler, Sampler


def conditional(mean, covariance, mask, x_0):
    """Mean and covariance of what is not known of a Gaussian, given what is."""
    rest = ~mask
    gain = covariance[rest][:, mask] @ torch.linalg.inv(covariance[mask][:, mask])
    return (
        mean[rest] + gain @ (x_0[mask] - mean[mask]),
        covariance[rest][:, rest] - gain @ covariance[mask][:, rest],
    )


@pytest.mark.slow
def test_on_gaussian_data_the_rest_is_drawn_given_what_is_kept():
    """1000 images: standard errors of a mean are 0.032, of a variance 0.045, in units of the
    conditional ones. Bounds are 4 of them, which five numbers of an unbiased sampler leave once in
    3000 sets of seeds."""
    ideal, mean, covariance = gaussian()
    mask = torch.tensor([True, True, False, False])
    factor = torch.linalg.cholesky(covariance)
    x_0 = mean + factor @ torch.randn(4, generator=torch.Generator().manual_seed(0)).double()
    wanted, spread = conditional(mean, covariance, mask, x_0)
    known = x_0.view(1, 1, 1, 4).expand(1000, -1, -1, -1)
    denoiser = KeptDenoiser(ideal, known, mask.view(1, 1, 1, 4))
    sampler = Sampler(80, sigma_min=0.01, sigma_max=20.0)

    def drawn(loop):
        source = SeededNoise(range(1000))
        start = 20 * source.normal(torch.empty(1000, 1, 1, 4).double()) + known * mask
        out = loop(denoiser, GaussianProcess(), start, source).flatten(1)
        assert torch.equal(out[:, mask], known.flatten(1)[:, mask])
        return out[:, ~mask]

    scale = spread.diag().sqrt()
    made = drawn(ResamplingSampler(sampler, resamples=50, jump=4))
    assert float(((made.mean(0) - wanted) / scale).abs().max()) < 4 * 1000**-0.5
    error = (made.T.cov() - spread) / (scale[:, None] * scale)
    assert float(error.abs().max()) < 4 * (2 / 1000) ** 0.5
    # Replacement alone does not get there: resampling is what does.
    replaced = drawn(sampler)
    assert float(((replaced.mean(0) - wanted) / scale).abs().max()) > 10 * 1000**-0.5


def test_going_back_keeps_the_distribution_where_nothing_is_known():
    ideal, mean, covariance = gaussian()
    loop = ResamplingSampler(Sampler(40, sigma_min=0.01, sigma_max=20.0), resamples=5, jump=2)
    source = SeededNoise(range(1000))
    start = 20 * source.normal(torch.empty(1000, 1, 1, 4).double())
    made = loop(ideal, GaussianProcess(), start, source).flatten(1)
    scale = covariance.diag().sqrt()
    assert float(((made.mean(0) - mean) / scale).abs().max()) < 4 * 1000**-0.5
    error = (made.T.cov() - covariance) / (scale[:, None] * scale)
    assert float(error.abs().max()) < 5 * (2 / 1000) ** 0.5
    levels = [step.sigma for step in loop.path(ideal, GaussianProcess(), start, source)]
    assert levels == list(loop.sampler.sigmas[1:])


def test_resampling_once_is_the_sampler_itself():
    ideal, _, _ = gaussian()
    for estimate in ("two_step", "averaged_slopes", "single"):
        sampler = Sampler(12, sigma_min=0.01, sigma_max=20.0, estimate=estimate, S_churn=3.0)
        made = []
        for loop in (sampler, ResamplingSampler(sampler, 1, 1), ResamplingSampler(sampler, 1, 5)):
            source = SeededNoise(range(20))
            start = 20 * source.normal(torch.empty(20, 1, 1, 4).double())
            made.append(loop(ideal, GaussianProcess(), start, source))
        assert torch.equal(made[0], made[1])
        assert torch.equal(made[0], made[2])


def test_a_shorter_way_has_the_same_churn():
    sampler = Sampler(20, S_churn=4.0)
    x = torch.zeros(1, 1, 2, 2)
    level = sampler.visited[10]
    _, whole = sampler.churn(GaussianProcess(), x, level, SeededNoise([0]))
    part = sampler.below(level)
    assert part.visited == sampler.visited[10:]
    _, raised = part.churn(GaussianProcess(), x, level, SeededNoise([0]))
    assert raised == pytest.approx(whole) == pytest.approx(1.2 * level)
