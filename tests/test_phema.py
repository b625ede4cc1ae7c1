"""Averages of weights by power functions, and those of other lengths made of them afterwards."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from overtone.cli.app import main
from overtone.errors import OvertoneError
from overtone.pipelines import load_pipeline
from overtone.runs import read_log
from overtone.storage import load_tensors
from overtone.training.ema import EMA, PowerFunction
from overtone.training.loop import Trainer
from overtone.training.phema import (
    LONGEST,
    Snapshots,
    exponent_of,
    length_of,
    lengths_of,
    product,
    synthesis,
    synthesised,
)
from runs import TINY, changed


def test_exponents_of_lengths():
    """The two that the paper names, the plain mean, and the inverse."""
    assert exponent_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert exponent_of(0.10) == pytest.approx(6.94, abs=0.005)
    assert exponent_of(LONGEST) == pytest.approx(0.0, abs=1e-6)
    for exponent in (0.5, 3.0, 40.0):
        assert exponent_of(length_of(exponent)) == pytest.approx(exponent, rel=1e-9)
    for wrong in (0.0, 0.3, -0.1):
        with pytest.raises(ValueError, match="the length of an average is from"):
            exponent_of(wrong)


def test_a_length_is_the_profiles_standard_deviation():
    for length in (0.03, 0.1, 0.25):
        g = exponent_of(length)
        moments = [(g + 1) * quad(np.power, 0, 1, args=(g + k,))[0] for k in (0, 1, 2)]
        assert moments[0] == pytest.approx(1)
        assert math.sqrt(moments[2] - moments[1] ** 2) == pytest.approx(length, rel=1e-6)


def test_the_average_is_the_sum_over_its_profile():
    """Step by step it is the closed form: after n steps the weight of step k is the integral of the
    profile from k - 1 to k."""
    module = nn.Linear(1, 1, bias=False)
    ema = EMA(module, profile=PowerFunction(0.1))
    values = torch.randn(40, generator=torch.Generator().manual_seed(0)).tolist()
    for step, value in enumerate(values):
        nn.init.constant_(module.weight, value)
        ema.update(32 * step, 32)
    edges = (torch.arange(41, dtype=torch.float64) / 40) ** (exponent_of(0.1) + 1)
    wanted = (edges.diff() * torch.tensor(values, dtype=torch.float64)).sum()
    assert float(ema.module.weight) == pytest.approx(float(wanted), rel=1e-4)


def test_products_of_profiles_are_integrals():
    for n, g, m, h in ((1.0, 3.0, 1.0, 3.0), (1.0, 17.0, 0.5, 7.0), (0.3, 2.0, 0.8, 40.0)):

        def both(t, n=n, g=g, m=m, h=h):
            first = (g + 1) * t**g / n ** (g + 1) if t <= n else 0.0
            return first * ((h + 1) * t**h / m ** (h + 1) if t <= m else 0.0)

        found = quad(both, 0, min(n, m), limit=200)[0]
        assert float(product((n, g), (m, h))) == pytest.approx(found, rel=1e-8)


def test_a_length_that_was_written_down_is_made_of_itself():
    snapshots = [(images, length) for images in (50, 100) for length in (0.05, 0.1)]
    found = synthesis(snapshots, 100, 0.1)
    assert found.distance < 1e-6
    assert np.allclose(found.weights, [0, 0, 0, 1], atol=1e-6)


def test_the_distance_is_that_of_the_profiles():
    snapshots = [(images, length) for images in range(10, 101, 10) for length in (0.05, 0.1)]
    found = synthesis(snapshots, 100, 0.03)
    t = np.linspace(0, 1, 200_001)[1:]

    def profile(images, length):
        g, n = exponent_of(length), images / 100
        return np.where(t <= n, (g + 1) * t**g / n ** (g + 1), 0)

    own = sum(x * profile(*s) for x, s in zip(found.weights, snapshots, strict=True))
    wanted = profile(100, 0.03)
    assert np.sqrt(((own - wanted) ** 2).mean() / (wanted**2).mean()) == pytest.approx(
        found.distance, rel=1e-3
    )
    # More snapshots come closer, and no other weights do.
    assert synthesis(snapshots[::2], 100, 0.03).distance > found.distance
    nudged = found.weights + np.random.default_rng(0).normal(size=20) * 1e-3
    other = sum(x * profile(*s) for x, s in zip(nudged, snapshots, strict=True))
    assert ((other - wanted) ** 2).mean() > ((own - wanted) ** 2).mean()


RUN = changed(total_images=8192, ema_lengths=(0.05, 0.1), checkpoint_images=8192,
              report_images=4096)  # fmt: skip
OTHERS = (0.025, 0.03, 0.075, 0.15, 0.2, 0.25)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that keeps two averages, and beside them, to compare with, others."""
    place = tmp_path_factory.mktemp("averages") / "run"
    trainer = Trainer.of(RUN, show=False)
    for length in OTHERS:
        trainer.averages.powers[length] = EMA(trainer.model, profile=PowerFunction(length))
    trainer.run(place)
    return place, {length: trainer.averages.powers[length] for length in OTHERS}


def own_snapshots(place):
    return [s for s in Snapshots(place).until(10**9) if s.length in RUN.training.ema_lengths]


@pytest.mark.parametrize("length", OTHERS)
def test_an_average_made_afterwards_is_that_of_a_run_that_kept_it(run, length):
    place, kept = run
    made = synthesised(own_snapshots(place), 8192, length)
    weights = kept[length].module.network.state_dict()
    assert made.keys() == weights.keys()
    floats = [name for name in weights if weights[name].is_floating_point()]
    own, wanted = (torch.cat([t[n].flatten() for n in floats]) for t in (made, weights))
    assert float((own - wanted).norm() / wanted.norm()) < 0.01
    # And it is another average than the nearest of those that were written down.
    other = kept[min(set(OTHERS) - {length}, key=lambda o: abs(o - length))]
    far = torch.cat([other.module.network.state_dict()[n].flatten() for n in floats])
    assert (own - wanted).norm() < (own - far).norm()


def test_lengths_that_can_not_be_made_are_named(run):
    place, _ = run
    low, high = lengths_of([(s.images, s.length) for s in own_snapshots(place)], 8192)
    assert low < 0.025 < 0.25 < high
    with pytest.raises(OvertoneError, match=r"an average of length 0\.006 can't be made"):
        synthesised(own_snapshots(place), 8192, 0.006)
    with pytest.raises(OvertoneError, match=f"Lengths that can be made: from {low:.3f} to"):
        synthesised(own_snapshots(place), 8192, 0.006)


def test_a_killed_run_writes_the_same_averages(tmp_path):
    plan = changed(RUN, total_images=1024, checkpoint_images=512)
    Trainer.of(plan, show=False).run(tmp_path / "whole")
    Trainer.of(changed(plan, total_images=512, snapshot_images=32), show=False).run(
        tmp_path / "parts"
    )
    Trainer.of(changed(plan, snapshot_images=32), show=False).run(tmp_path / "parts")
    one, other = (Snapshots(tmp_path / name).until(1024) for name in ("whole", "parts"))
    assert [s[:2] for s in one] == [s[:2] for s in other]
    assert len(one) == 64
    for a, b in zip(one, other, strict=True):
        assert a.file.read_bytes() == b.file.read_bytes()
    with pytest.raises(OvertoneError, match="ema_lengths"):
        Trainer.of(changed(plan, ema_lengths=()), show=False).run(tmp_path / "whole")


def test_averages_are_scored_and_the_best_is_written(tmp_path, capsys):
    plan = changed(RUN, total_images=2048, checkpoint_images=2048)
    Trainer.of(plan, show=False).run(tmp_path / "run")
    lengths = ["0.05", "0.1", "0.2"]
    main(["ema", str(tmp_path / "run"), "--lengths", *lengths, "--json", "--out",
          str(tmp_path / "model")])  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert [average["average"] for average in found] == ["as trained", *lengths]
    logged = [e["held_out_loss"] for e in read_log(tmp_path / "run") if "held_out_loss" in e][-1]
    assert found[0]["held_out_loss"] == pytest.approx(logged, rel=1e-6)
    best = min(found, key=lambda average: average["held_out_loss"])["average"]
    pipe = load_pipeline(tmp_path / "model")
    told = "its own" if best == "as trained" else f"power function of length {best}"
    assert pipe.training["average of the weights"] == told
    if best != "as trained":
        there = Snapshots(tmp_path / "run").until(2048)
        wanted = synthesised(there, 2048, float(best))
        assert all(torch.equal(t, wanted[n]) for n, t in pipe.network.state_dict().items())
    main(["ema", str(tmp_path / "run"), "--lengths", "0.1"])
    assert "The best is that of the lowest held-out loss." in capsys.readouterr().out


def test_runs_without_averages_and_no_runs_are_refused(tmp_path):
    from overtone.training.averaging import averaged

    Trainer.of(TINY, show=False).run(tmp_path / "run")
    with pytest.raises(OvertoneError, match="has written down no averages"):
        averaged(tmp_path / "run", [0.1])
    with pytest.raises(OvertoneError, match="is not a run with a checkpoint"):
        averaged(tmp_path, [0.1])


def test_a_snapshot_holds_the_average_in_half_precision(tmp_path):
    network = torch.nn.Linear(5, 1, bias=False)
    network.register_buffer("frequencies", torch.randn(5))  # which is no average
    Snapshots(tmp_path).write(64, 0.05, network)
    (found,) = Snapshots(tmp_path).until(100)
    assert found[:2] == (64, 0.05)
    (tensor,) = load_tensors(found.file).values()
    assert torch.equal(tensor, network.weight.detach().half().float())
