"""The average of a run's weights: its formula, its half-life, and what an objective sees of it."""

import dataclasses
from typing import ClassVar

import pytest
import torch
from torch import nn

from overtone.data import open_data
from overtone.training.ema import EMA
from overtone.training.loop import Trainer
from overtone.training.objectives import DenoisingObjective
from runs import OnData, changed


def test_ema_is_the_weighted_sum_of_all_weights():
    module = nn.Linear(1, 1, bias=False)
    ema = EMA(module, halflife_images=100, rampup_ratio=None)
    weights, batch = [float(module.weight.detach())], 32
    for step in range(20):
        with torch.no_grad():
            module.weight.fill_(step**2)
        weights.append(float(step**2))
        ema.update(step * batch, batch)
    beta = 0.5 ** (32 / 100)
    expected = beta**20 * weights[0] + sum(
        (1 - beta) * beta ** (20 - k) * w for k, w in enumerate(weights[1:], start=1)
    )
    assert float(ema.module.weight.detach()) == pytest.approx(expected, rel=1e-5)


def test_ema_forgets_half_in_a_half_life():
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    ema = EMA(module, halflife_images=640, rampup_ratio=None)
    nn.init.ones_(module.weight)
    for step in range(640 // 64):
        ema.update(step * 64, 64)
    assert float(ema.module.weight.detach()) == pytest.approx(0.5)


def test_ema_ramps_up_so_that_a_short_run_is_not_noise():
    module = nn.Linear(4, 4)
    ema = EMA(module, halflife_images=500_000, rampup_ratio=0.05)
    for step in range(10):
        nn.init.constant_(module.weight, step)
        ema.update(step * 512, 512)
    # The half-life at 4,608 images is 230: 79 % of the last weights, none of the first.
    assert float(ema.module.weight[0, 0]) > 8.7
    assert ema.beta(0, 512) == 0.0
    assert ema.beta(10**9, 512) == 0.5 ** (512 / 500_000)


def test_the_average_counts_the_images_before_the_step():
    """EDM's half-life is min(halflife, ratio n), n the images before the step: after the first step
    the average is the weights, and after the second it keeps 2^(-32 / 32) of them."""
    recipe = changed(lr_rampup_images=0, ema_rampup_ratio=1.0, ema_halflife_images=10**9)
    trainer = Trainer(OnData(recipe, open_data("builtin:digits", 8, 1)), recipe)
    batches, weights = trainer.batches(0), []
    for _ in range(2):
        trainer.step(trainer.model, next(batches))
        weights.append([p.detach().clone() for p in trainer.model.parameters()])
        trainer.progress.images += 32
        if len(weights) == 1:
            for average, own in zip(trainer.ema.averages, weights[0], strict=True):
                assert torch.equal(average, own)
    for average, first, second in zip(trainer.ema.averages, *weights, strict=True):
        assert torch.allclose(average, (first + second) / 2, atol=1e-7)


@dataclasses.dataclass(frozen=True)
class TowardsTheAverage(DenoisingObjective):
    """Towards what the averaged model says, as one-step students are trained."""

    needs_average: ClassVar[bool] = True
    seen: list = dataclasses.field(default_factory=list)

    def loss(self, model, batch, average=None):
        assert average is not model
        assert not average.training
        assert not any(p.requires_grad for p in average.parameters())
        self.seen.append([p.clone() for p in average.parameters()])
        x = batch["x_0"] + batch["sigma"][:, None, None, None] * batch["noise"]
        with torch.no_grad():
            target = average(x, batch["sigma"]).x_0
        return (model(x, batch["sigma"]).x_0 - target).square().mean((1, 2, 3)) + 1e-3


def test_an_objective_sees_the_averaged_model():
    """As it is before each step: at first the model itself, then what the EMA made of it."""
    recipe = changed(lr_rampup_images=0)
    objective = TowardsTheAverage()
    trainer = Trainer(OnData(recipe, open_data("builtin:digits", 8, 1), objective), recipe)
    expected = [[p.clone() for p in trainer.model.parameters()]]
    batches = trainer.batches(0)
    for step in range(3):
        trainer.step(trainer.model, next(batches))
        beta = trainer.ema.beta(32 * step, 32)
        expected.append(
            [
                beta * old + (1 - beta) * new.detach()
                for old, new in zip(expected[-1], trainer.model.parameters(), strict=True)
            ]
        )
        trainer.progress.images += 32
    for seen, wanted in zip(objective.seen, expected[:3], strict=True):
        for a, b in zip(seen, wanted, strict=True):
            assert torch.allclose(a, b, atol=1e-7)
