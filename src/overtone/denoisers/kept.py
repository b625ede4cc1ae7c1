"""A denoiser that knows parts of the image already."""

from __future__ import annotations

import torch
from torch import Tensor

from overtone.denoisers.denoiser import Denoiser, Estimate, Images, Labels, Sigma


class KeptDenoiser(Denoiser):
    """The estimate of a denoiser, with what is known in its place: D' = m x_0 + (1 - m) D.

    Under any step formula what is known keeps the noise that it began with, at the level of each
    step, and ends as it is.
    """

    def __init__(self, denoiser: Denoiser, x_0: Images, mask: Tensor) -> None:
        """`mask` broadcasts against x_0, and is true where it is known."""
        super().__init__()
        self.denoiser, self.x_0, self.mask = denoiser, x_0, mask
        self.num_classes = denoiser.num_classes

    def forward(self, x: Images, sigma: Sigma, class_labels: Labels | None = None) -> Estimate:
        estimate = self.denoiser(x, sigma, class_labels)
        known = torch.where(self.mask, self.x_0.to(estimate.x_0), estimate.x_0)
        return Estimate(known, estimate.variance)
