"""The forward process: what a clean image becomes at a noise level.

    x = mean(x_0, sigma) + sigma noise

in the variance-exploding frame that all denoisers and samplers speak. Processes differ in their
mean (the identity, a blur) and in the covariance of their noise (white, blocks).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from overtone.processes.noise import NoiseSource

Images = Float[Tensor, "batch channels height width"]


class Process(ABC):
    """Contract: `mean` is linear in x_0 and the identity at sigma = 0; noise has unit variance."""

    @abstractmethod
    def mean(self, x_0: Images, sigma: float | Float[Tensor, " batch"]) -> Images:
        """E[x | x_0] at noise level sigma: a number, or one an image."""

    @abstractmethod
    def noise(self, like: Images, source: NoiseSource) -> Images:
        """The process's noise, unit variance, drawn from `source` in the shape of `like`."""

    def reverse(
        self, x: Images, x_0: Images, sigma: float, sigma_next: float, gamma: float
    ) -> Images:
        """A sampler's step without its noise, from x at sigma to sigma_next:

        mean(x_0, sigma_next) + gamma (x - mean(x_0, sigma))

        in new memory, which the caller may change. Processes that can take it in one pass over
        the images do so.
        """
        residual = x - self.mean(x_0, sigma)
        return torch.add(self.mean(x_0, sigma_next), residual, alpha=gamma)


@dataclass(frozen=True)
class GaussianProcess(Process):
    """White noise on the image as it is: mean(x_0, sigma) = x_0."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    kind: Literal["GaussianProcess"] = "GaussianProcess"

    def mean(self, x_0: Images, sigma: float | Float[Tensor, " batch"]) -> Images:
        return x_0

    def noise(self, like: Images, source: NoiseSource) -> Images:
        return source.normal(like)
