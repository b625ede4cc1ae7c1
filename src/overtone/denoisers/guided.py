"""Guidance: away from what a worse denoiser would say."""

from __future__ import annotations

import math

import torch

from overtone.denoisers.denoiser import Denoiser, Estimate, Images, Labels, Sigma, level_of
from overtone.denoisers.guidance import GuidanceSettings


class GuidedDenoiser(Denoiser):
    """D = D_guide + scale (D - D_guide), in some channels, within an interval of noise levels.

    Without a `guide` it is the model itself, asked for no class: classifier-free guidance (Ho &
    Salimans 2022, arXiv 2207.12598); both halves go through the network as one batch. With one, a
    smaller or less trained denoiser of the same images asked for the same class, it is
    autoguidance (Karras et al. 2024, arXiv 2406.02507).

    `settings` may be a number, the scale. Outside their interval, and at scale 1, only the model is
    evaluated (Kynkaanniemi et al. 2024, arXiv 2404.07724). Channels that are not guided, and the
    variance of networks that learn it, are the model's own, as in DiffiT and ADM. sigma must be a
    number, as it is in sampling.

    Raises `ValueError` for an unconditional denoiser without a guide, whose guidance has no
    meaning, for a guide with another number of classes, and for a power of a time that the denoiser
    has not.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        settings: GuidanceSettings | float,
        guide: Denoiser | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(settings, GuidanceSettings):
            settings = GuidanceSettings(float(settings))
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
        if settings.power is not None and denoiser.relative_time(1.0) is None:
            raise ValueError(
                f"a {type(denoiser).__name__} has no steps whose number the power of guidance"
                " could be of: leave it out"
            )
        self.denoiser = denoiser
        self.guide = guide
        self.settings = settings
        self.num_classes = denoiser.num_classes

    def forward(self, x: Images, sigma: Sigma, class_labels: Labels | None = None) -> Estimate:
        level = level_of(sigma)
        if level is None:
            raise TypeError("guidance takes sigma as a number: it is for sampling, not training")
        scale = self.scale_at(level)
        if self.calls_at(level) == 1:
            return self.denoiser(x, sigma, class_labels)
        if self.guide is not None:
            own = self.denoiser(x, sigma, class_labels)
            labels = class_labels if self.guide.num_classes else None
            return self._guided(own, self.guide(x, sigma, labels).x_0, scale)
        if class_labels is None:
            return self.denoiser(x, sigma)
        null = torch.full_like(class_labels, self.num_classes)
        both = self.denoiser(torch.cat((x, x)), sigma, torch.cat((class_labels, null)))
        conditional, unconditional = both.x_0.chunk(2)
        variance = None if both.variance is None else both.variance.chunk(2)[0]
        return self._guided(Estimate(conditional, variance), unconditional, scale)

    def calls_at(self, sigma: float) -> int:
        return 1 if abs(self.scale_at(sigma) - 1) < 2**-24 else 2  # which in float32 is 1

    def alike_around(self, sigma: float) -> tuple[float, float]:
        low, high = self.settings.interval or (0.0, math.inf)
        if sigma > high:
            return math.nextafter(high, math.inf), math.inf
        if sigma < low:
            return 0.0, math.nextafter(low, 0.0)
        return low, high

    def scale_at(self, sigma: float) -> float:
        """The scale at a noise level."""
        low, high = self.settings.interval or (0.0, math.inf)
        if not low <= sigma <= high:
            return 1.0
        return self.settings.scale_at(self.denoiser.relative_time(sigma) or 0.0)

    def _guided(self, own: Estimate, worse: torch.Tensor, scale: float) -> Estimate:
        if self.settings.channels is None:
            return Estimate(torch.lerp(worse, own.x_0, scale), own.variance)
        guided = own.x_0.clone()
        # One by one: a list of them would be sent to the device at each step.
        for channel in self.settings.channels:
            guided[:, channel] = torch.lerp(worse[:, channel], own.x_0[:, channel], scale)
        return Estimate(guided, own.variance)
