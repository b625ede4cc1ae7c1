"""Guidance: away from what a worse denoiser would say."""

from __future__ import annotations

import math
from functools import cache

import torch

from overtone.denoisers.denoiser import Denoiser, Estimate, Images, Labels, Sigma, level_of
from overtone.denoisers.guidance import GuidanceSettings
from overtone.processes.patches import dct_matrix


class GuidedDenoiser(Denoiser):
    """D = D_guide + scale (D - D_guide), in some channels, within an interval of noise levels.

    Without a `guide` it is the model itself, asked for no class: classifier-free guidance (Ho &
    Salimans 2022, arXiv 2207.12598); both halves go through the network as one batch. With one, a
    smaller or less trained denoiser of the same images asked for the same class, it is
    autoguidance (Karras et al. 2024, arXiv 2406.02507).

    With a `high_scale` the difference's low frequencies, those of its DCT, are scaled by `scale`
    and its high ones by the other (Sadat et al. 2025, arXiv 2506.19713, who split by a pyramid).

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
                "this model has no null class for classifier-free guidance (a distilled one has"
                " its teacher's guidance already): guide it with a weaker model"
            )
        if guide is not None and guide.num_classes not in (0, denoiser.num_classes):
            raise ValueError(
                f"the guide has {guide.num_classes} classes, the model {denoiser.num_classes}"
            )
        if settings.power is not None and denoiser.relative_time(1.0) is None:
            raise ValueError(
                "guidance.power needs a denoiser with a time of its own, and a"
                f" {type(denoiser).__name__} has none: leave it out"
            )
        self.denoiser = denoiser
        self.guide = guide
        self.settings = settings
        self.num_classes = denoiser.num_classes

    def forward(self, x: Images, sigma: Sigma, class_labels: Labels | None = None) -> Estimate:
        level = level_of(sigma)
        if level is None:
            raise TypeError("guidance takes sigma as a number: it is for sampling, not training")
        if self.calls_at(level) == 1:
            return self.denoiser(x, sigma, class_labels)
        if self.guide is not None:
            own = self.denoiser(x, sigma, class_labels)
            labels = class_labels if self.guide.num_classes else None
            return self._guided(own, self.guide(x, sigma, labels).x_0, level)
        if class_labels is None:
            return self.denoiser(x, sigma)
        null = torch.full_like(class_labels, self.num_classes)
        both = self.denoiser(torch.cat((x, x)), sigma, torch.cat((class_labels, null)))
        conditional, unconditional = both.x_0.chunk(2)
        variance = None if both.variance is None else both.variance.chunk(2)[0]
        return self._guided(Estimate(conditional, variance), unconditional, level)

    def calls_at(self, sigma: float) -> int:
        scales = self.scale_at(sigma), self.high_scale_at(sigma)
        none = all(abs(scale - 1) < 2**-24 for scale in scales)  # which in float32 are 1
        return 1 if none else 2

    def alike_around(self, sigma: float) -> tuple[float, float]:
        low, high = self.settings.interval or (0.0, math.inf)
        if sigma > high:
            return math.nextafter(high, math.inf), math.inf
        if sigma < low:
            return 0.0, math.nextafter(low, 0.0)
        return low, high

    def scale_at(self, sigma: float) -> float:
        """The scale at a noise level, that of low frequencies where there are two."""
        time = self._time(sigma)
        return 1.0 if time is None else self.settings.scale_at(time)

    def high_scale_at(self, sigma: float) -> float:
        """The scale of high frequencies at a noise level."""
        time = self._time(sigma)
        return 1.0 if time is None else self.settings.high_scale_at(time)

    def _time(self, sigma: float) -> float | None:
        """The share of the steps below a noise level; None outside the interval."""
        low, high = self.settings.interval or (0.0, math.inf)
        return (self.denoiser.relative_time(sigma) or 0.0) if low <= sigma <= high else None

    def _guided(self, own: Estimate, worse: torch.Tensor, level: float) -> Estimate:
        channels = self.settings.channels
        if channels is None:
            return Estimate(self._scaled(own.x_0, worse, level), own.variance)
        guided = own.x_0.clone()
        # One by one: a list of them would be sent to the device at each step.
        for channel in channels:
            at = slice(channel, channel + 1)
            guided[:, at] = self._scaled(own.x_0[:, at], worse[:, at], level)
        return Estimate(guided, own.variance)

    def _scaled(self, own: torch.Tensor, worse: torch.Tensor, level: float) -> torch.Tensor:
        scale, high = self.scale_at(level), self.high_scale_at(level)
        guided = torch.lerp(worse, own, scale)
        if high == scale:
            return guided
        difference = own - worse
        rows, columns = (
            _low_band(side, self.settings.band, own.dtype, own.device) for side in own.shape[-2:]
        )
        details = difference - rows @ difference @ columns
        return guided.add(details, alpha=high - scale)


@cache
def _low_band(size: int, band: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """What the lowest of the DCT's frequencies leave of `size` pixels in a row: a projection,
    (size, size)."""
    with torch.inference_mode(False):  # kept for callers of any mode
        low = dct_matrix(size, device)[: max(1, round(band * size))]
        return (low.T @ low).to(device, dtype)
