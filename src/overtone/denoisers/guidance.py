"""Guidance: away from what a worse denoiser would say."""

from __future__ import annotations

import torch

from overtone.denoisers.denoiser import Denoiser, Estimate, Images, Labels


class GuidedDenoiser(Denoiser):
    """D = D_guide + scale (D - D_guide), within an interval of noise levels.

    Without a `guide` it is the model itself, asked for no class: classifier-free guidance (Ho &
    Salimans 2022, arXiv 2207.12598); both halves go through the network as one batch. With one, a
    smaller or less trained denoiser of the same images asked for the same class, it is
    autoguidance (Karras et al. 2024, arXiv 2406.02507).

    Outside `interval` = (lowest, highest sigma), and at scale 1, only the model is evaluated
    (Kynkaanniemi et al. 2024, arXiv 2404.07724). sigma must be a number, as it is in sampling.

    Raises `ValueError` for an unconditional denoiser without a guide, whose guidance has no
    meaning, and for a guide with another number of classes.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float,
        interval: tuple[float, float] | None = None,
        guide: Denoiser | None = None,
    ) -> None:
        super().__init__()
        if guide is None and not denoiser.num_classes:
            raise ValueError(
                "guidance needs a class-conditional model or a weaker model to guide with;"
                " this one is unconditional"
            )
        if guide is None and not denoiser.has_null_class:
            raise ValueError(
                "this model has classes but none for 'no class': guide it with a weaker model"
            )
        if guide is not None and guide.num_classes not in (0, denoiser.num_classes):
            raise ValueError(
                f"the guide has {guide.num_classes} classes, the model {denoiser.num_classes}"
            )
        if interval is not None and not interval[0] < interval[1]:
            raise ValueError(f"guidance_interval is (lowest, highest) sigma, not {interval}")
        self.denoiser = denoiser
        self.guide = guide
        self.scale = scale
        self.interval = interval
        self.num_classes = denoiser.num_classes

    def forward(
        self, x: Images, sigma: float | torch.Tensor, class_labels: Labels | None = None
    ) -> Estimate:
        if isinstance(sigma, torch.Tensor):
            raise TypeError("guidance takes sigma as a number: it is for sampling, not training")
        low, high = self.interval or (0.0, float("inf"))
        if self.scale == 1.0 or not low <= sigma <= high:
            return self.denoiser(x, sigma, class_labels)
        if self.guide is not None:
            own = self.denoiser(x, sigma, class_labels)
            labels = class_labels if self.guide.num_classes else None
            worse = self.guide(x, sigma, labels).x_0
            return Estimate(torch.lerp(worse, own.x_0, self.scale), own.variance)
        if class_labels is None:
            return self.denoiser(x, sigma)
        null = torch.full_like(class_labels, self.num_classes)
        both = self.denoiser(torch.cat((x, x)), sigma, torch.cat((class_labels, null)))
        conditional, unconditional = both.x_0.chunk(2)
        variance = None if both.variance is None else both.variance.chunk(2)[0]
        return Estimate(torch.lerp(unconditional, conditional, self.scale), variance)
