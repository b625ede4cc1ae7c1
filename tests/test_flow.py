"""Rectified flow: one schedule, one row of the table, one recipe; everything else as it was."""

import dataclasses
import math

import pytest
import torch

from helpers import TINY_DIFFIT, awake, gaussian
from overtone.denoisers import (
    FlowPreconditioning,
    GuidanceSettings,
    GuidedDenoiser,
    NetworkDenoiser,
)
from overtone.networks import DiffiTUNet
from overtone.pipelines import Pipeline
from overtone.processes import (
    FlowSchedule,
    GaussianProcess,
    QuantileSchedule,
    RelayProcess,
    SeededNoise,
)
from overtone.samplers import Sampler
from overtone.training import ExpertSettings, find_recipe, train

ROW = FlowPreconditioning()


def flow_time(sigma):
    return sigma / (1 + sigma)


def test_uniform_times_are_uniform():
    schedule = FlowSchedule()
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    s = flow_time(schedule.sigma(t))
    steps = s.diff()
    assert torch.allclose(steps, steps.mean().expand(100), rtol=1e-9)
    assert float(s[0]) == pytest.approx(0.001 / 1.001, rel=1e-12)
    assert float(s[-1]) == pytest.approx(0.999, rel=1e-12)


def test_logit_normal_times_are_edms_quantiles_between_the_ends():
    schedule = FlowSchedule("logit_normal", -0.4, 1.3, 0.01, 50.0)
    whole = QuantileSchedule(-0.4, 1.3)
    low, high = whole.t_at(0.01), whole.t_at(50.0)
    for t in (0.0, 0.2, 0.5, 0.9, 1.0):
        assert schedule.sigma_at(t) == pytest.approx(whole.sigma_at(low + (high - low) * t))
    # logit(s) is normal: its median is the mean, moved a little by the ends.
    wide = FlowSchedule("logit_normal", -0.4, 1.3, 1e-4, 1e4)
    s = flow_time(wide.sigma_at(0.5))
    assert math.log(s / (1 - s)) == pytest.approx(-0.4, abs=1e-6)


@pytest.mark.parametrize(
    "schedule",
    [FlowSchedule(), FlowSchedule("logit_normal"), FlowSchedule(sigma_min=0.01, sigma_max=5.0)],
    ids=repr,
)
def test_both_ways_and_finite(schedule):
    t = torch.linspace(0, 1, 301, dtype=torch.float64)
    sigma = schedule.sigma(t)
    assert bool((sigma.diff() > 0).all())
    assert float(sigma[0]) == pytest.approx(schedule.sigma_min, rel=1e-9)
    # The quantile of 999 is 1 - 2.5e-12, which float64 holds to some four digits.
    rel = 1e-9 if schedule.times == "uniform" else 1e-4
    assert float(sigma[-1]) == pytest.approx(schedule.sigma_max, rel=rel)
    assert torch.allclose(schedule.t(sigma), t, atol=1e-9)
    for time in (0.0, 0.37, 1.0):
        assert schedule.sigma_at(time) == pytest.approx(float(schedule.sigma(time)), rel=1e-12)
    assert (schedule.t_at(0.0), schedule.t_at(math.inf)) == (0.0, 1.0)
    assert torch.isfinite(ROW.weight(sigma)).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma_max": math.inf}, {"sigma_max": math.nan}, {"sigma_min": 0.0}, {"sigma_min": -1.0},
        {"sigma_min": 3.0, "sigma_max": 2.0}, {"std": 0.0}, {"std": math.nan}, {"mean": math.inf},
        {"times": "cosine"}, {"times": "logit_normal", "mean": 200.0},
    ],
)  # fmt: skip
def test_schedules_that_are_none(wrong):
    with pytest.raises(ValueError, match=r"does not hold|must be|uniform or|leave no noise"):
        FlowSchedule(**wrong)


def test_the_ideal_velocity_is_the_analytic_one():
    # x_0 ~ N(m, C), n ~ N(0, 1) and x_s = (1 - s) x_0 + s n are jointly normal, so that
    # E[x_0 | x_s] = m + (1 - s) C S^-1 d and E[n | x_s] = s S^-1 d,
    # S = (1 - s)^2 C + s^2, d = x_s - (1 - s) m.
    ideal, mean, covariance = gaussian()
    source = SeededNoise(range(5))
    for sigma in (0.003, 0.4, 2.0, 80.0):
        s = flow_time(sigma)
        x = mean.view(1, 1, 1, -1) + sigma * source.normal(torch.empty(5, 1, 1, 4).double())
        made = ROW.output(x, sigma, ideal(x, sigma).x_0).flatten(1)
        d = (1 - s) * x.flatten(1) - (1 - s) * mean
        total = (1 - s) ** 2 * covariance + s**2 * torch.eye(4, dtype=torch.float64)
        solved = torch.linalg.solve(total, d.T).T
        wanted = s * solved - mean - (1 - s) * solved @ covariance
        assert torch.allclose(made, wanted, atol=1e-9), sigma


def test_the_four_functions_are_the_straight_line():
    x_0, noise = torch.randn(2, 3, 1, 4, 4).double().unbind()
    for sigma in (0.01, 1.0, 300.0):
        s = flow_time(sigma)
        x = x_0 + sigma * noise
        assert torch.allclose(ROW.c_in(sigma) * x, (1 - s) * x_0 + s * noise)
        assert torch.allclose(ROW.output(x, sigma, x_0), noise - x_0)
        assert torch.allclose(ROW.estimate(x, sigma, noise - x_0), x_0)
        assert ROW.c_noise(sigma) == pytest.approx(1000 * s)
        assert ROW.weight(sigma) == pytest.approx(s**-2)


def test_sampling_in_sigma_is_euler_in_flow_time():
    network = awake(DiffiTUNet(TINY_DIFFIT))
    velocity = NetworkDenoiser(network, ROW)
    times = [0.999 * (1 - i / 12) for i in range(12)]
    sampler = Sampler(num_steps=12, levels=tuple(s / (1 - s) for s in times), estimate="single")
    noise = SeededNoise(range(3)).normal(torch.empty(3, 1, 8, 8).double())
    labels = torch.arange(3)
    with torch.no_grad():
        made = sampler(velocity, GaussianProcess(), sampler.sigma_start * noise,
                       SeededNoise(range(3)), labels)  # fmt: skip
        # Euler's method for dx/ds = v(x, s), from x_s = s noise with no image in it.
        x = times[0] * noise
        for s, after in zip(times, [*times[1:], 0.0], strict=True):
            v = network(x.float(), torch.full((3,), 1000 * s), labels).double()
            x = x + (after - s) * v
    assert float((made - x).abs().max() / x.abs().max()) < 1e-6


def test_guidance_of_the_estimate_is_guidance_of_the_velocity():
    network = awake(DiffiTUNet(TINY_DIFFIT))
    denoiser = NetworkDenoiser(network, ROW)
    x, labels, sigma, scale = torch.randn(3, 1, 8, 8), torch.arange(3), 1.7, 2.5
    with torch.no_grad():
        guided = GuidedDenoiser(denoiser, GuidanceSettings(scale))(x, sigma, labels).x_0
        time = torch.full((3,), ROW.c_noise(sigma))
        asked, none = (network(ROW.c_in(sigma) * x, time, c) for c in (labels, None))
    wanted = none + scale * (asked - none)
    assert torch.allclose(ROW.output(x, sigma, guided), wanted, atol=1e-4)


def tiny(**changes):
    recipe = find_recipe("flow-digits")
    plan = {"total_images": 128, "batch_size": 32, "lr_rampup_images": 0, "precision": "fp32"}
    recipe = dataclasses.replace(
        recipe,
        network=dataclasses.replace(TINY_DIFFIT, num_classes=0),
        sampler=Sampler(3),
        training=dataclasses.replace(recipe.training, **plan),
        reporting=dataclasses.replace(recipe.reporting, held_out_images=32),
    )
    return dataclasses.replace(recipe, **changes)


@pytest.mark.slow
def test_it_is_trained_saved_and_distilled(tmp_path):
    pipe = train(tiny(), tmp_path / "run", show=False)
    assert isinstance(pipe, Pipeline)
    assert pipe.preconditioning == ROW
    recipe = find_recipe("dsno-digits")
    plan = {"total_images": 32, "batch_size": 16, "lr_rampup_images": 0, "precision": "fp32"}
    recipe = dataclasses.replace(
        recipe,
        teacher=str(tmp_path / "run"),
        count=32,
        held_out=0,
        training=dataclasses.replace(recipe.training, **plan),
    )
    operator = train(recipe, tmp_path / "operator", show=False)
    assert operator.sampler.is_operator
    assert operator.preconditioning.times == ROW
    assert len(operator([1, 2])) == 2


def test_it_is_trained_as_experts(tmp_path):
    experts = ExpertSettings(FlowSchedule().shares(2), (0.5, 0.5))
    pipe = train(tiny(experts=experts), tmp_path / "run", show=False)
    assert pipe.preconditioning == ROW
    # Halves of the flow times that are trained on, which are uniform.
    (boundary,) = pipe.network.config.boundaries
    assert flow_time(boundary) == pytest.approx((0.001 / 1.001 + 0.999) / 2)
    assert len(pipe([1, 2])) == 2


def test_it_is_a_relays_second_stage(tmp_path):
    # The blur has the time of training: at the highest flow time it is complete.
    schedule = FlowSchedule(sigma_max=1.5)
    process = RelayProcess(patch=4, schedule=schedule)
    sampler = Sampler(3, sigma_min=0.01, sigma_max=1.4, estimate="two_step")
    recipe = tiny(process=process, schedule=schedule, sampler=sampler, first="")
    pipe = train(recipe, tmp_path / "run", show=False)
    assert len(pipe.upscale(torch.zeros(2, 1, 2, 2), class_labels=[1, 2])) == 2
