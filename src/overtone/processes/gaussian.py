"""The forward process: what a clean image becomes at a noise level.

    x = mean(x_0, sigma) + sigma noise

in the variance-exploding frame that all denoisers and samplers speak. Processes differ in their
mean (the identity, a blur) and in the covariance of their noise (white, blocks).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Float

from overtone.registry import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from overtone.processes.noise import NoiseSource
    from overtone.processes.schedule import Schedule

    Images = Float[Tensor, "batch channels height width"]


class Process(Kind, ABC, family="process", home="overtone.processes"):
    """Contract: `mean` is linear in x_0 and the identity at sigma = 0; noise has unit variance.

    What others need to know of a process it says itself: the properties below.
    """

    is_gaussian: ClassVar[bool] = False
    """Whether the process adds white noise to the image as it is, as DDPM and diffusers' schedulers
    assume."""

    @property
    def keeps_mean(self) -> bool:
        """Whether mean(x_0, sigma) is x_0 at every noise level, so that adding noise leads to a
        higher one."""
        return self.is_gaussian

    @property
    def upscale(self) -> int:
        """How many times smaller the images are that it ends at, 1 for a process that ends in
        noise: a second stage goes on from such images."""
        return 1

    @property
    def highest_sigma(self) -> float:
        """The noise level that it ends at."""
        return math.inf

    @property
    def clock(self) -> Schedule | None:
        """The schedule whose time its mean depends on, which training has to use; None if the mean
        depends on the noise level alone."""
        return None

    @property
    def script(self) -> dict[str, float] | None:
        """What a script that samples without Overtone has to know of its noise, beside the matrix
        `blur(sigma)` of a process that blurs patches. None: no script knows the process."""
        return {} if self.is_gaussian else None

    def check_size(self, resolution: int | tuple[int, int]) -> None:
        """Raises `ValueError` for images of a height and width that it does not take."""

    @abstractmethod
    def mean(self, x_0: Images, sigma: float | Float[Tensor, ...]) -> Images:
        """E[x | x_0] at noise level sigma: a number, also as a tensor, or one an image."""

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
        return self.mean(x_0, sigma_next).add(residual, alpha=gamma)


@dataclass(frozen=True)
class GaussianProcess(Process, kind="GaussianProcess"):
    """White noise on the image as it is: mean(x_0, sigma) = x_0."""

    is_gaussian = True

    def mean(self, x_0: Images, sigma: float | Float[Tensor, ...]) -> Images:
        return x_0

    def noise(self, like: Images, source: NoiseSource) -> Images:
        return source.normal(like)
