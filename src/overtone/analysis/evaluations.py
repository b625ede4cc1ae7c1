"""How many network calls an image costs: counted, not read off the settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from overtone.denoisers.denoiser import Denoiser, Estimate, Images, Labels
from overtone.denoisers.guided import GuidedDenoiser
from overtone.pipelines.pipeline import Pipeline
from overtone.pipelines.request import Request


class _Counting(Denoiser):
    """In the place of a denoiser: counts the images that it is asked for, and computes nothing."""

    def __init__(self, model: Denoiser, learns_variance: bool) -> None:
        super().__init__()
        self.model = [model]  # in a list, so that it is no part of this one
        self.num_classes = model.num_classes
        self.learns_variance = learns_variance
        self.count = 0

    def forward(
        self, x: Images, sigma: float | Tensor, class_labels: Labels | None = None
    ) -> Estimate:
        self.count += len(x)
        return Estimate(x, torch.zeros_like(x) if self.learns_variance else None)

    def relative_time(self, sigma: float) -> float | None:
        return self.model[0].relative_time(sigma)


def evaluations(pipe: Pipeline, request: Request | None = None) -> int:
    """Network calls for one image, those of guidance included, without those of a first stage.

    The sampler goes its whole way with a denoiser that counts, which is exact for any sampler.
    Raises `OvertoneError` for what the pipeline would refuse.
    """
    request = request or Request([0])
    sampler: Any = pipe.sampler_of(request)
    if sampler.is_operator:
        return 1
    config, model = pipe.network.config, pipe.denoiser
    counting = _Counting(model, config.learns_variance)  # type: ignore[arg-type]
    denoiser: Denoiser = counting
    guidance = pipe.guidance_of(request)
    if guidance.scale != 1.0:
        pipe.guided(guidance, request.guide)  # which raises what is wrong with it
        denoiser = GuidedDenoiser(counting, guidance, counting if request.guide else None)
    labels = torch.zeros(1, dtype=torch.int64) if pipe.num_classes else None
    start = torch.zeros(1, config.channels, config.resolution, config.resolution)
    source = pipe.start.source([0], pipe.resolution)
    with torch.no_grad():
        for _ in sampler.path(denoiser, pipe.process, start, source, labels):
            pass
    return counting.count
