"""Relay diffusion's forward process: blur within patches, white noise and block noise.

Teng et al. 2024 (arXiv 2309.03350). Each patch of s x s pixels, s the upscale factor, fades towards
its mean as the noise grows, so that at the highest level an image looks like one of lower
resolution whose pixels were repeated: this process can be inverted from where a first stage ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jaxtyping import Float

from overtone.processes.gaussian import Process
from overtone.processes.schedule import QuantileSchedule, Schedule
from overtone.ranges import NotNegative, Share, Size
from overtone.sizes import divides, shown

if TYPE_CHECKING:
    from torch import Tensor

    from overtone.processes.gaussian import Images
    from overtone.processes.noise import NoiseSource


@dataclass(frozen=True)
class RelayProcess(Process, kind="RelayProcess"):
    """mean(x_0, sigma) = V D V^T x_0, noise = (e + alpha Block_s(e')) / sqrt(1 + alpha^2).

    V^T is the DCT of each s x s patch, s = `patch`, and D keeps of coefficient (i, j)

        D = exp(-lambda tau) (1 - m) + m            m = min_scale
        lambda = pi^2 (i^2 + j^2) / s^2
        tau = sigma_B^2 / 2,   sigma_B = blur_sigma_max sin^2(pi t / 2),   t = schedule.t(sigma)

    which is the paper's section 3.2. alpha is `block_scale`; the published code leaves the noise's
    normaliser out, so its checkpoints need `normalised` off. Both sides of an image must be
    multiples of the patch; raises `ValueError` for others.

    Examples:
        >>> import torch
        >>> x_0 = torch.arange(16.0).view(1, 1, 4, 4)
        >>> RelayProcess().mean(x_0, 80.0)[0, 0, 0].tolist()  # t = 1: nearly the patch's mean, 7.5
        [7.039..., 7.093..., 7.169..., 7.223...]
    """

    patch: Size = 4
    """The height and width of the blurred patches, in pixels, which is the upscale factor."""
    blur_sigma_max: NotNegative = 3.0
    """The standard deviation of the blur at t = 1, in pixels."""
    min_scale: Share = 0.001
    """The share of every DCT coefficient that the blur never takes away."""
    block_scale: NotNegative = 0.15
    """The standard deviation of the block noise, where that of the white noise is 1."""
    normalised: bool = True
    """Divide the noise by its standard deviation, sqrt(1 + block_scale^2)."""
    schedule: Schedule = field(default_factory=lambda: QuantileSchedule(prob_length=0.93))
    """The schedule turns a noise level into the time that the blur depends on."""

    @property
    def keeps_mean(self) -> bool:
        return self.blur_sigma_max == 0

    @property
    def upscale(self) -> int:
        return self.patch

    @property
    def highest_sigma(self) -> float:
        return self.schedule.sigma_at(1.0)

    @property
    def clock(self) -> Schedule:
        return self.schedule

    @property
    def script(self) -> dict[str, float]:
        deviation = math.sqrt(1 + self.block_scale**2) if self.normalised else 1.0
        return {"patch": self.patch, "block": self.block_scale, "deviation": deviation}

    def check_size(self, resolution: int | tuple[int, int]) -> None:
        if not divides(resolution, self.patch):
            raise ValueError(
                f"{shown(resolution)} px do not divide into patches of {self.patch} px"
            )

    def mean(self, x_0: Images, sigma: float | Float[Tensor, ...]) -> Images:
        from overtone.processes.patches import per_patch

        return per_patch(x_0, self.blur(sigma), self.patch)

    def noise(self, like: Images, source: NoiseSource) -> Images:
        """White noise is drawn first, then, unless `block_scale` is 0, what the blocks average."""
        from overtone.processes.patches import block_noise

        noise = source.normal(like)
        if not self.block_scale:
            return noise
        noise.add_(block_noise(source.normal(like), self.patch), alpha=self.block_scale)
        return noise.mul_((1 + self.block_scale**2) ** -0.5) if self.normalised else noise

    def reverse(
        self, x: Images, x_0: Images, sigma: float, sigma_next: float, gamma: float
    ) -> Images:
        from overtone.processes.patches import per_patch, reversing_matrix

        matrix = reversing_matrix(self, sigma, sigma_next, gamma, x.dtype, x.device)
        return per_patch(x_0, matrix, self.patch).add_(x, alpha=gamma)

    def kept(self, sigma: float | Float[Tensor, "*batch"]) -> Float[Tensor, "*batch patch patch"]:
        """D: what is kept of each coefficient at a noise level, float64."""
        k = self._per_axis(sigma)
        return (1 - self.min_scale) * k[..., :, None] * k[..., None, :] + self.min_scale

    def blur(
        self, sigma: float | Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch pixels_out pixels_in"]:
        """V D V^T of a patch's s^2 pixels, row by row, float64 on sigma's device if that has it."""
        from overtone.processes.patches import blur_matrix

        return blur_matrix(self._per_axis(sigma), self.min_scale)

    def _per_axis(self, sigma: float | Float[Tensor, "*batch"]) -> Float[Tensor, "*batch patch"]:
        from overtone.processes.patches import kept_per_axis

        t = self.schedule.t(sigma)
        return kept_per_axis(self.blur_sigma_max * (math.pi / 2 * t).sin() ** 2, self.patch)
