"""The denoiser's contract: x, sigma, class_labels -> Estimate(x_0)."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

Images = Float[Tensor, "batch channels height width"]
Labels = Int[Tensor, " batch"]


class Estimate(NamedTuple):
    """What a denoiser knows of the clean image."""

    x_0: Tensor
    """E[x_0 | x], in the shape and dtype of x"""
    variance: Tensor | None = None
    """of the reverse step, from networks that learn it"""


class Denoiser(nn.Module):
    """Estimates the clean image from x = mean(x_0, sigma) + sigma noise.

    sigma is a number on the host while sampling (so that nothing waits for a device), or a tensor
    (batch,) while training. class_labels are integers in [0, num_classes]; num_classes itself, and
    None, ask for no class. A denoiser owns its network's preconditioning and time.
    """

    num_classes: int = 0
    has_null_class: bool = True
    """whether `num_classes` may be asked for, as classifier-free guidance does"""

    @abstractmethod
    def forward(
        self, x: Images, sigma: float | Float[Tensor, " batch"], class_labels: Labels | None = None
    ) -> Estimate: ...

    def relative_time(self, sigma: float) -> float | None:
        """The share of the diffusion's noise levels that lie below one (`Schedule.share_below`);
        None for denoisers without a schedule of their own."""
        return None
