"""The denoiser's contract: x, sigma, class_labels -> Estimate(x_0)."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Images = Float[Tensor, "batch channels height width"]
Labels = Int[Tensor, " batch"]
Sigma = float | Float[Tensor, ""] | Float[Tensor, " batch"]
"""a noise level: a number, a tensor without dimensions that carries a gradient, or one an image"""


def level_of(sigma: Sigma) -> float | None:
    """The noise level as a number, where it is one for all images; None where each has its own."""
    if isinstance(sigma, Tensor):
        return float(sigma.detach()) if sigma.dim() == 0 else None
    return sigma


class Estimate(NamedTuple):
    """What a denoiser knows of the clean image."""

    x_0: Tensor
    """The expected clean image, E[x_0 | x], in the shape and dtype of x."""
    variance: Tensor | None = None
    """The variance of the reverse step, in the shape of x_0, where the network learns it."""


class Model(nn.Module):
    """What denoisers and solution operators have in common, for those who hold one."""

    num_classes: int = 0
    has_null_class: bool = True
    """Whether the model has a class `num_classes` that stands for no class, as classifier-free
    guidance needs."""
    is_operator: ClassVar[bool] = False
    """Whether the model predicts whole trajectories, as a `SolutionOperator` does."""

    @property
    def dtype(self) -> torch.dtype:
        """What its network computes in: float32, or float64 if its weights are."""
        first = next(self.parameters(), None)
        return (
            torch.float64 if first is not None and first.dtype == torch.float64 else torch.float32
        )

    @property
    def home(self) -> torch.device | None:
        """The device that its networks are fetched to when they are needed; None if they are
        where their tensors are."""
        return None

    def reside(self, device: str | torch.device, resident: int) -> None:
        """Keep at most `resident` of its networks on a device. Raises `ValueError` for one."""
        raise ValueError("resident is for models of experts, and this one has one network")

    def settle(self) -> None:
        """End that: all networks are on the host."""

    def recall(self) -> None:
        """Have all networks on the host for now, as before they are saved."""


class Denoiser(Model):
    """Estimates the clean image from x = mean(x_0, sigma) + sigma noise.

    sigma is a number on the host while sampling (so that nothing waits for a device), a tensor
    without dimensions on the host where a sampler's noise levels are fitted, or a tensor (batch,)
    while training. class_labels are integers in [0, num_classes]; num_classes itself, and
    None, ask for no class. A denoiser owns its network's preconditioning and time.
    """

    @abstractmethod
    def forward(self, x: Images, sigma: Sigma, class_labels: Labels | None = None) -> Estimate:
        """The estimate for x (batch, channels, height, width) at noise levels sigma above 0."""

    def calls_at(self, sigma: float) -> int:
        """How many times a network is called for an image at a noise level."""
        return 1

    def alike_around(self, sigma: float) -> tuple[float, float]:
        """The lowest and the highest noise level of those around one at which as many calls are
        made."""
        return 0.0, math.inf

    def relative_time(self, sigma: float) -> float | None:
        """The share of the diffusion's noise levels that lie below one (`Schedule.share_below`);
        None for denoisers without a schedule of their own."""
        return None

    def expert_at(self, sigma: float) -> int | None:
        """The number of the expert that is asked at a noise level, counted from 0; None for
        denoisers that are no experts."""
        return None
