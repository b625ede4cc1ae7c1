"""A network that is the ideal denoiser of a mixture of Gaussians with classes, in closed form."""

import dataclasses

import torch

from overtone.denoisers import IdealDenoiser
from overtone.networks import Network, NetworkConfig
from overtone.pipelines import Pipeline
from overtone.samplers import Sampler
from teachers import Unscaled


@dataclasses.dataclass(frozen=True)
class MixtureConfig(NetworkConfig, kind="TestMixture"):
    resolution: int = 4
    channels: int = 1
    num_classes: int = 3
    faint: float = 0.0
    """how much fainter its images are than they should be: by this share of a class, and by twice
    as much of no class, so that guidance of scale 2 makes up for it"""

    def build(self):
        return MixtureNetwork(self)


class MixtureNetwork(Network):
    """Six components, two a class, which the time tells the noise level of."""

    config_class = MixtureConfig

    def __init__(self, config):
        super().__init__(config)
        random = torch.Generator().manual_seed(5)
        size = config.channels, config.resolution, config.resolution
        dims = config.channels * config.resolution**2
        means = 0.6 * torch.randn(6, *size, generator=random)
        factor = 0.1 * torch.randn(dims, dims, generator=random)
        labels = torch.arange(6) % 3 if config.num_classes else None
        covariance = factor @ factor.T / dims**0.5 + 0.01 * torch.eye(dims)
        self.ideal = IdealDenoiser(means, covariance, labels)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, time, class_labels=None):
        own = self.ideal(x, time, class_labels).x_0
        if self.config.faint:
            null = class_labels == self.config.num_classes
            own = own * (1 - self.config.faint * (1 + null[:, None, None, None].float()))
        return self.scale * own


def mixture_pipe(sampler=None, classes=3, faint=0.0, **parts):
    network = MixtureConfig(num_classes=classes, faint=faint).build()
    return Pipeline(
        network,
        sampler or Sampler(),
        **{"preconditioning": Unscaled(), "precision": "fp32"} | parts,
    )
