"""What a model is trained on: how a batch is drawn, and the loss of each image in it.

`draw` runs where images are loaded and takes all its randomness from one generator an image, so
that a training image's time, noise, mirroring and label dropout depend on nothing else; `loss`
runs on the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from overtone.denoisers.denoiser import Images
from overtone.denoisers.preconditioning import EDMPreconditioning, Preconditioning
from overtone.processes.gaussian import GaussianProcess, Process
from overtone.processes.noise import SeededNoise
from overtone.processes.posterior import ReverseSteps, log_variance, variational_bound
from overtone.processes.schedule import QuantileSchedule, Schedule
from overtone.training.augment import augment

Batch = dict[str, Tensor]


class Objective(ABC):
    """Contract of the training loop."""

    needs_average: ClassVar[bool] = False
    """Whether `loss` looks at the averaged model, as that of one-step students does."""

    @abstractmethod
    def draw(self, x_0: Images, labels: Int[Tensor, " batch"], source: SeededNoise) -> Batch:
        """A training batch from clean images and their labels; all randomness from `source`."""

    @abstractmethod
    def loss(
        self, model: nn.Module, batch: Batch, average: nn.Module | None = None
    ) -> Float[Tensor, " batch"]:
        """The loss of each image, float32. `average` is the averaged copy of the model as it was
        before the step, in eval mode and without gradients; given where it is needed."""


@dataclass(frozen=True)
class DenoisingObjective(Objective):
    """The loss of a denoiser D on x = mean(x_0, sigma) + sigma noise, sigma = schedule(t):

        c_out(sigma)^-2 |D(x; sigma) - x_0|^2,   t ~ U(0, 1)

    averaged over the image's values, where c_out is that of the preconditioning `weighting`. With
    the denoiser's own preconditioning, the loss is the plain error of the network's output. EDM's
    weight is (sigma^2 + s_d^2) / (sigma s_d)^2, and that of a network which predicts the noise is
    sigma^-2. If the schedule is discrete, t is one of its steps.

    `label_dropout` is the probability of training an image under the null class, which
    `num_classes` stands for; `mirror` flips half of the images; `augmentation` is the probability
    of EDM's, whose conditions go to the network.

    `hybrid`, for a network that learns the reverse step's variance, adds a thousandth of the
    variational bound on N steps, in bits a value, of which one step's term is drawn (Nichol &
    Dhariwal 2021, arXiv 2102.09672, equation 16):

        N / 1000 L_t,   L_t from `variational_bound`, the mean held fixed

    so that it trains the variance alone. `bounded` says that values lie in [-1, 1], as pixels do.

    An expert of an `interval` of times draws t from it with probability `interval_probability`,
    and else from all of (0, 1): see `soft_interval`.
    """

    schedule: Schedule = field(default_factory=QuantileSchedule)
    process: Process = field(default_factory=GaussianProcess)
    weighting: Preconditioning = field(default_factory=EDMPreconditioning)
    num_classes: int = 0
    label_dropout: float = 0.0
    mirror: bool = False
    augmentation: float = 0.0
    hybrid: bool = False
    bounded: bool = True
    interval: tuple[float, float] = (0.0, 1.0)
    interval_probability: float = 1.0

    @cached_property
    def steps(self) -> ReverseSteps:
        """The reverse steps whose variance is learned; `ValueError` where time is continuous."""
        if not self.schedule.discrete:
            raise ValueError("a learned variance is that of the steps of a discrete schedule")
        return ReverseSteps(self.schedule.levels)  # type: ignore[attr-defined]

    def draw(self, x_0: Images, labels: Int[Tensor, " batch"], source: SeededNoise) -> Batch:
        uniform = soft_interval(source.uniform(), self.interval, self.interval_probability)
        t = self.schedule.drawn(uniform)
        flipped, dropped = source.uniform() < 0.5, source.uniform() < self.label_dropout
        if self.mirror:
            x_0 = torch.where(flipped[:, None, None, None], x_0.flip(3), x_0)
        batch = {"sigma": self.schedule.sigma(t).float()}
        if self.augmentation:
            x_0, batch["augment_labels"] = augment(x_0, self.augmentation, source)
        batch |= {"x_0": x_0, "noise": self.process.noise(x_0, source)}
        if self.num_classes:
            batch["class_labels"] = torch.where(dropped, self.num_classes, labels)
        if self.hybrid:
            steps, at = self.steps, (t * (len(self.steps.ratio) - 1)).round().long()
            numbers = (steps.ratio[at], steps.log_lower[at], steps.log_upper[at])
            batch["reverse_step"] = torch.stack(numbers, dim=1).float()
        return batch

    def loss(
        self, model: nn.Module, batch: Batch, average: nn.Module | None = None
    ) -> Float[Tensor, " batch"]:
        x_0, sigma = batch["x_0"], batch["sigma"]
        x = self.process.mean(x_0, sigma) + sigma[:, None, None, None] * batch["noise"]
        # Only denoisers of networks with augmentation conditions take the argument.
        conditions = [batch["augment_labels"]] if "augment_labels" in batch else []
        estimate = model(x, sigma, batch.get("class_labels"), *conditions)
        error = estimate.x_0 - x_0
        loss = self.weighting.weight(sigma) * error.square().mean(dim=(1, 2, 3))
        if not self.hybrid:
            return loss
        ratio, lower, upper = batch["reverse_step"][:, :, None, None, None].unbind(1)
        bound = variational_bound(
            error.detach(),
            log_variance(estimate.variance, lower, upper),
            ratio,
            lower,
            x_0,
            bounded=self.bounded,
        )
        return loss + len(self.steps.ratio) / 1000 * bound.mean(dim=(1, 2, 3))


def soft_interval(
    uniform: Float[Tensor, " batch"], interval: tuple[float, float], probability: float
) -> Float[Tensor, " batch"]:
    """Times from p U(low, high) + (1 - p) U(0, 1), of draws from U(0, 1): the inverse of

        F(t) = (1 - p) t + p clamp((t - low) / (high - low), 0, 1)

    MEME's strategy for an expert of the interval (low, high) (Lee et al. 2023, arXiv 2306.04990).
    """
    low, high = interval
    if (low, high) == (0.0, 1.0) or not probability:
        return uniform
    rest = 1 - probability
    inside = low + (uniform - rest * low) / (rest + probability / (high - low))
    t = torch.where(uniform < rest * low, uniform / rest if rest else uniform, inside)
    above = (uniform - probability) / rest if rest else uniform
    return torch.where(uniform > rest * high + probability, above, t)
