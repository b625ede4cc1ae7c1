"""Schedules and noise: closed forms, inverses, and statistics of seeded draws."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from overtone.processes import (
    DiscreteSchedule,
    GaussianProcess,
    QuantileSchedule,
    ReplayNoise,
    SeededNoise,
    VESchedule,
    VPCosineSchedule,
    VPLinearSchedule,
)
from overtone.processes.noise import mix

SCHEDULES = [QuantileSchedule(), QuantileSchedule(-0.4, 1.0), VPLinearSchedule()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_schedules_invert_both_ways(schedule):
    # As exactly as t can tell: at sigma = 80 EDM's quantile is 1 - 1.7e-6, whose spacing in
    # float64 (1e-16) is 1e-10 of what is left to 1.
    sigma = torch.logspace(-3, 1.9, 200, dtype=torch.float64)
    assert torch.allclose(schedule.sigma(schedule.t(sigma)), sigma, rtol=1e-9, atol=0)
    t = torch.linspace(1e-6, 1 - 1e-6, 500, dtype=torch.float64)
    assert torch.allclose(schedule.t(schedule.sigma(t)), t, rtol=1e-12, atol=1e-15)
    assert bool((schedule.sigma(t).diff() > 0).all())


def test_quantile_schedule_is_edms_distribution():
    # ln sigma of uniform t is normal: quartiles and the seed's own figures.
    sigma = QuantileSchedule().sigma(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    assert torch.allclose(sigma, torch.tensor([0.134, 0.301, 0.677]).double(), atol=5e-4)
    assert 1 - float(QuantileSchedule().t(80.0)) == pytest.approx(1.6e-6, rel=0.1)


def test_vp_schedule_is_the_integral_of_beta():
    # sigma^2 + 1 = exp(integral of beta): the integral by quadrature, for a time in the middle.
    schedule, t = VPLinearSchedule(), 0.37
    s = torch.linspace(0, t, 10_001, dtype=torch.float64)
    integral = torch.trapezoid(0.1 + 19.9 * s, s)
    assert float(schedule.sigma(t)) == pytest.approx(float(torch.expm1(integral).sqrt()), rel=1e-8)
    assert float(schedule.sigma(1.0)) == pytest.approx(152.2, abs=0.1)
    quartiles = [float(schedule.sigma(q)) for q in (0.25, 0.5, 0.75)]
    assert quartiles == pytest.approx([0.95, 3.4, 17.0], rel=5e-3)


@pytest.mark.parametrize(
    "schedule",
    [
        VESchedule(),
        VPCosineSchedule(),
        DiscreteSchedule(),
        DiscreteSchedule("scaled_linear", 1000, 0.00085, 0.012),
        DiscreteSchedule("cosine", 200),
    ],
    ids=lambda schedule: f"{schedule.kind} {getattr(schedule, 'betas', '')}",
)
def test_finite_schedules_invert_between_their_ends(schedule):
    t = torch.linspace(0, 1, 501, dtype=torch.float64)
    sigma = schedule.sigma(t)
    assert bool(torch.isfinite(sigma).all())
    assert bool((sigma.diff() > 0).all())
    assert torch.allclose(schedule.t(sigma), t, rtol=1e-9, atol=1e-12)
    # Beyond the ends a level has the time of the nearer one.
    assert float(schedule.t(sigma[0] / 2)) == 0
    assert float(schedule.t(sigma[-1] * 2)) == 1


def test_cosine_schedule_is_linear_in_the_angle_of_its_log_snr():
    schedule, t = VPCosineSchedule(-15.0, 15.0), torch.linspace(0, 1, 11, dtype=torch.float64)
    log_snr = -2 * schedule.sigma(t).log()
    assert [float(log_snr[0]), float(log_snr[-1])] == pytest.approx([15.0, -15.0])
    angle = torch.atan(torch.exp(-log_snr / 2))
    assert torch.allclose(angle.diff(), angle.diff()[0].expand(10))
    assert float(schedule.sigma(0.5)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (DiscreteSchedule(), {"beta_schedule": "linear"}),
        (DiscreteSchedule("cosine"), {"beta_schedule": "squaredcos_cap_v2"}),
        (
            DiscreteSchedule("scaled_linear", 1000, 0.00085, 0.012),
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        ),
    ],
)
def test_discrete_levels_are_diffusers(schedule, theirs):
    from diffusers import DDPMScheduler

    abar = DDPMScheduler(**theirs).alphas_cumprod.double()
    assert torch.allclose(schedule.levels, ((1 - abar) / abar).sqrt(), rtol=3e-3)  # theirs: float32
    steps = torch.tensor([0, 17, 500, 999])
    assert torch.allclose(schedule.t(schedule.levels[steps]) * 999, steps.double(), atol=1e-8)


def test_an_infinite_last_level_is_refused():
    with pytest.raises(ValueError, match="zero terminal SNR"):
        DiscreteSchedule(abar=(0.9, 0.5, 0.0))
    with pytest.raises(ValueError, match="do not increase"):
        DiscreteSchedule(abar=(0.9, 0.9, 0.5))


@pytest.mark.parametrize(
    "make",
    [
        lambda: QuantileSchedule(P_std=0.0),
        lambda: VPLinearSchedule(-1.0, 20.0),
        lambda: VPCosineSchedule(20.0, -20.0),
        lambda: VESchedule(0.0, 1.0),
        lambda: VESchedule(5.0, 1.0),
        lambda: DiscreteSchedule(num_steps=1),
    ],
)
def test_settings_that_give_no_schedule_are_refused(make):
    with pytest.raises(
        ValueError, match=r"must be above|does not hold|at least 2|must be from 0 to 1,000, not -1"
    ):
        make()


def test_schedules_refuse_what_is_no_time_or_level():
    with pytest.raises(ValueError, match=r"t must be in \[0, 1\]"):
        QuantileSchedule().sigma(1.5)
    with pytest.raises(ValueError, match="sigma must be at least 0"):
        VPLinearSchedule().t(-0.1)


@given(seed=st.integers(0, 2**32 - 1), others=st.lists(st.integers(0, 2**32 - 1), max_size=5))
def test_noise_of_a_seed_depends_on_nothing_else(seed, others):
    alone, among = SeededNoise([seed]), SeededNoise([*others, seed])
    for _ in range(2):
        first = alone.normal(torch.empty(1, 3, 5, 7))
        assert torch.equal(first[0], among.normal(torch.empty(len(others) + 1, 3, 5, 7))[-1])
    generator = torch.Generator().manual_seed(seed)
    fresh = SeededNoise([seed]).normal(torch.empty(1, 2, 8, 8))
    assert torch.equal(fresh[0], torch.randn(2, 8, 8, generator=generator))


ASKED = (
    *("small", "small", "small", "large", "large", "uniform", "large", "large", "generators"),
    *("large", "large", "small", "small", "small", "small", "large"),
)


def test_what_is_drawn_ahead_changes_no_draw():
    """Whatever is asked for next: the same shape, another one, a uniform draw, a generator."""
    shapes = {"small": torch.empty(3, 4), "large": torch.empty(3, 3, 80, 80)}
    sources = SeededNoise([5, 6, 7], ahead=True), SeededNoise([5, 6, 7])
    used = 0
    for asked in ASKED:
        used += sources[0]._next is not None
        if asked == "uniform":
            given = [source.uniform() for source in sources]
        elif asked == "generators":
            given = [torch.rand(2, generator=source.generators[1]) for source in sources]
        else:
            given = [source.normal(shapes[asked]) for source in sources]
        assert torch.equal(*given), asked
    assert used >= 6  # else nothing was tried


def test_noise_is_the_same_in_a_batch_of_1_and_of_64():
    like = torch.empty(64, 3, 32, 32)
    together = SeededNoise(range(64)).normal(like)
    for seed in range(64):
        assert torch.equal(SeededNoise([seed]).normal(like[:1])[0], together[seed])


def test_large_images_drawn_on_threads_are_their_generators_draws(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    like = torch.empty(3, 3, 96, 96)
    for image, seed in zip(SeededNoise([7, 8, 9]).normal(like), (7, 8, 9), strict=True):
        generator = torch.Generator().manual_seed(seed)
        assert torch.equal(image, torch.randn(3, 96, 96, generator=generator))


def test_noise_is_drawn_in_inference_mode_too(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    like = torch.empty(2, 3, 96, 96)
    with torch.inference_mode():
        inside = SeededNoise([1, 2]).normal(like)
    assert torch.equal(inside, SeededNoise([1, 2]).normal(like))


def test_a_forked_child_draws_too():
    code = """if True:
        import os, sys, torch
        from overtone.processes import SeededNoise
        torch.set_num_threads(2)
        draw = lambda: SeededNoise([1, 2]).normal(torch.empty(2, 3, 96, 96))
        here = draw()
        if child := os.fork():
            sys.exit(os.waitpid(child, 0)[1])
        os._exit(not torch.equal(draw(), here))
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_noise_refuses_seeds_it_would_confuse():
    with pytest.raises(ValueError, match="seed 4294967296"):
        SeededNoise([2**32])
    with pytest.raises(ValueError, match="2 seeds can't draw for 3"):
        SeededNoise([1, 2]).normal(torch.empty(3, 1))


def test_uniform_draws_are_open_and_uniform():
    draws = SeededNoise(mix(5, n) for n in range(20_000)).uniform()
    assert draws.dtype == torch.float64
    assert 0 < draws.min() < draws.max() < 1
    # Kolmogorov-Smirnov distance; above 1.95 / sqrt(n) with probability 1e-3.
    ranks = torch.arange(1, 20_001) / 20_000
    assert float((draws.sort().values - ranks).abs().max()) < 1.95 / 20_000**0.5 + 1e-4


def test_mixed_seeds_rarely_meet():
    seeds = {mix(0, n) for n in range(100_000)}
    # 1.16 pairs are expected to meet among 2^32; more than 9 do with probability 1e-6.
    assert len(seeds) >= 100_000 - 9


def test_replay_hands_out_draws_in_order_and_says_when_they_end():
    draws = torch.randn(2, 1, 3)
    source = ReplayNoise(draws)
    assert torch.equal(source.normal(draws[0]), draws[0])
    assert torch.equal(source.normal(draws[0]), draws[1])
    with pytest.raises(ValueError, match="more noise"):
        source.normal(draws[0])
    with pytest.raises(ValueError, match="recorded noise is"):
        ReplayNoise(draws).normal(torch.empty(2, 3))


def test_gaussian_process_leaves_the_mean_alone():
    process, x = GaussianProcess(), torch.randn(2, 1, 4, 4)
    assert torch.equal(process.mean(x, 3.0), x)
    assert torch.equal(process.noise(x, SeededNoise([4, 5])), SeededNoise([4, 5]).normal(x))
