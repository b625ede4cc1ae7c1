"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598)."""

from __future__ import annotations

import torch

from overtone.denoisers.denoiser import Denoiser, Estimate, Images, Labels


class GuidedDenoiser(Denoiser):
    """D = D_uncond + scale (D_cond - D_uncond), within an interval of noise levels.

    Both halves go through the network as one batch. Outside `interval` = (lowest, highest sigma),
    and at scale 1, only the conditional half is evaluated (Kynkaanniemi et al. 2024,
    arXiv 2404.07724). sigma must be a number, as it is in sampling.

    Raises `ValueError` for an unconditional denoiser, whose guidance has no meaning.
    """

    def __init__(
        self, denoiser: Denoiser, scale: float, interval: tuple[float, float] | None = None
    ) -> None:
        super().__init__()
        if not denoiser.num_classes:
            raise ValueError("guidance needs a class-conditional model; this one is unconditional")
        self.denoiser = denoiser
        self.scale = scale
        self.interval = interval
        self.num_classes = denoiser.num_classes

    def forward(
        self, x: Images, sigma: float | torch.Tensor, class_labels: Labels | None = None
    ) -> Estimate:
        if isinstance(sigma, torch.Tensor):
            raise TypeError("guidance takes sigma as a number: it is for sampling, not training")
        low, high = self.interval or (0.0, float("inf"))
        if class_labels is None or self.scale == 1.0 or not low <= sigma <= high:
            return self.denoiser(x, sigma, class_labels)
        null = torch.full_like(class_labels, self.num_classes)
        both = self.denoiser(torch.cat((x, x)), sigma, torch.cat((class_labels, null)))
        conditional, unconditional = both.x_0.chunk(2)
        variance = None if both.variance is None else both.variance.chunk(2)[0]
        return Estimate(torch.lerp(unconditional, conditional, self.scale), variance)
