"""Exponential moving averages of weights, with EDM's half-life in images and its ramp-up."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from overtone.launch import fill, whole


class EMA:
    """Averages a module's parameters; `module` is a copy of it that holds the averages.

    After a step on `batch` images, n images into the run (Karras et al. 2022, appendix F.2),

        half-life = min(halflife_images, rampup_ratio n),   beta = 2^(-batch / half-life)
        average = beta average + (1 - beta) weights

    With the ramp-up the average reaches back over a fixed share of the run so far: after a short
    run it is not the noise of the initial weights. Buffers are copied.
    """

    def __init__(
        self, module: nn.Module, halflife_images: float, rampup_ratio: float | None = 0.05
    ) -> None:
        self.source = module
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.averages: list[Tensor] = list(self.module.parameters())
        self.halflife_images = halflife_images
        self.rampup_ratio = rampup_ratio

    def beta(self, images_seen: int, batch: int) -> float:
        """The weight that the old average keeps."""
        halflife = self.halflife_images
        if self.rampup_ratio is not None:
            halflife = min(halflife, self.rampup_ratio * images_seen)
        return 0.5 ** (batch / halflife) if halflife > 0 else 0.0

    @torch.no_grad()
    def update(self, images_seen: int, batch: int) -> None:
        """Move the average after a step; `images_seen` counts those before the step, as in EDM."""
        weights: list[Tensor] = list(self.source.parameters())
        torch._foreach_lerp_(self.averages, weights, 1 - self.beta(images_seen, batch))
        for average, buffer in zip(self.module.buffers(), self.source.buffers(), strict=True):
            average.copy_(buffer)

    def shard(self) -> None:
        """Keep the averages as the weights are kept, now that those were sharded."""
        self.averages = [torch.zeros_like(weight.detach()) for weight in self.source.parameters()]
        self.scatter()

    def scatter(self) -> None:
        """Take the averages from `module`."""
        for average, value in zip(self.averages, self.module.parameters(), strict=True):
            if average is not value:
                fill(average, value)

    def gather(self) -> nn.Module:
        """`module`, with the averages of today. Every process has to call it."""
        with torch.no_grad():
            for average, value in zip(self.averages, self.module.parameters(), strict=True):
                if average is not value:
                    value.copy_(whole(average))
        return self.module
