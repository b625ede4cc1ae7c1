"""Parts as somebody else would write them: one kind of each family (test_own_parts.py)."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from overtone.denoisers import Preconditioning
from overtone.networks import Network, NetworkConfig
from overtone.pipelines import NoiseStart
from overtone.processes import GaussianProcess, Schedule
from overtone.samplers import SamplingLoop, Step


@dataclass(frozen=True)
class PlainConfig(NetworkConfig, kind="Plain"):
    """Settings of `Plain`."""

    resolution: int = 8
    """height and width"""
    channels: int = 1
    """channels of the image"""
    num_classes: int = 0
    """0: unconditional"""
    width: int = 16
    """channels of the features"""

    def build(self):
        return Plain(self)


class Plain(Network):
    """Two convolutions, shifted by the time and the class."""

    config_class = PlainConfig

    def __init__(self, config):
        super().__init__(config)
        self.stem = nn.Conv2d(config.channels, config.width, 3, padding=1)
        self.time = nn.Linear(1, config.width)
        self.classes = nn.Embedding(config.num_classes + 1, config.width)
        self.head = nn.Conv2d(config.width, config.channels, 3, padding=1)

    def forward(self, x, time, class_labels=None):
        if class_labels is None:
            class_labels = torch.full((len(x),), self.config.num_classes, device=x.device)
        shift = self.time(time[:, None]) + self.classes(class_labels)
        return self.head(torch.relu(self.stem(x) + shift[:, :, None, None]))


@dataclass(frozen=True)
class Halved(Preconditioning, kind="halved"):
    """D = x / 2 + F."""

    share: float = 0.5
    """what is kept of x"""

    def c_skip(self, sigma):
        return self.share

    def c_out(self, sigma):
        return 1.0

    def c_in(self, sigma):
        return (1 + sigma**2) ** -0.5

    def c_noise(self, sigma):
        return math.log(sigma) if isinstance(sigma, float) else sigma.log()


@dataclass(frozen=True)
class Straight(Schedule, kind="straight"):
    """sigma = highest t."""

    highest: float = 10.0
    """sigma(1)"""

    def _sigma(self, t, m):
        return self.highest * t

    def _t(self, sigma, m):
        t = sigma / self.highest
        return min(t, 1.0) if isinstance(t, float) else t.clamp(max=1.0)


@dataclass(frozen=True)
class Grainy(GaussianProcess, kind="grainy"):
    """White noise times a factor."""

    grain: float = 1.0
    """the factor"""

    def noise(self, like, source):
        return self.grain * source.normal(like)


@dataclass(frozen=True)
class Jump(SamplingLoop, kind="jump"):
    """The denoiser's estimate, again and again from the same start."""

    num_steps: int = 2
    """how often it is asked"""
    sigma_max: float = 10.0
    """where it begins"""

    @property
    def sigma_start(self):
        return self.sigma_max

    def path(self, denoiser, process, start, source, class_labels=None):
        for number in range(self.num_steps):
            x_0 = denoiser(start, self.sigma_max, class_labels).x_0
            yield Step(number, 0.0, x_0, x_0)


@dataclass(frozen=True)
class Dimmed(NoiseStart, kind="dimmed"):
    """Noise times a share."""

    share: float = 0.5
    """the share"""

    def __call__(self, *arguments):
        return self.share * super().__call__(*arguments)
