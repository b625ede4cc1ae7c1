"""Moving averages of weights: with EDM's half-life in images, and with EDM2's power functions."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from overtone.launch import fill, whole
from overtone.training.phema import exponent_of


@runtime_checkable
class Profile(Protocol):
    """How an average weighs the past."""

    def beta(self, images_seen: float, batch: int) -> float:
        """The weight that the old average keeps in a step on `batch` images; `images_seen` counts
        those before it."""
        ...


@dataclass(frozen=True)
class HalfLife:
    """half-life = min(halflife_images, rampup_ratio n),   beta = 2^(-batch / half-life)

    n images into the run (Karras et al. 2022, appendix F.2). With the ramp-up the average reaches
    back over a fixed share of the run so far: after a short run it is not the noise of the initial
    weights.
    """

    halflife_images: float
    rampup_ratio: float | None = 0.05

    def beta(self, images_seen: float, batch: int) -> float:
        halflife = self.halflife_images
        if self.rampup_ratio is not None:
            halflife = min(halflife, self.rampup_ratio * images_seen)
        return 0.5 ** (batch / halflife) if halflife > 0 else 0.0


@dataclass(frozen=True)
class PowerFunction:
    """beta = (1 - batch / n)^(gamma + 1), n the images seen after the step

    The average at n weighs the weights at image m in proportion to m^gamma (Karras et al. 2024,
    arXiv 2312.02696, section 3.1). `length` is the profile's standard deviation over n, from which
    gamma follows (`phema.exponent_of`).
    """

    length: float

    def beta(self, images_seen: float, batch: int) -> float:
        return (1 - batch / (images_seen + batch)) ** (exponent_of(self.length) + 1)


class EMA:
    """Averages a module's parameters; `module` is a copy of it that holds the averages.

    After a step on `batch` images

        average = beta average + (1 - beta) weights

    with the beta of a `profile`, by default that of a half-life. Buffers are copied.
    """

    def __init__(
        self,
        module: nn.Module,
        halflife_images: float = 500_000,
        rampup_ratio: float | None = 0.05,
        *,
        profile: Profile | None = None,
    ) -> None:
        self.source = module
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.averages: list[Tensor] = list(self.module.parameters())
        self.profile = profile or HalfLife(halflife_images, rampup_ratio)

    def beta(self, images_seen: int, batch: int) -> float:
        """The weight that the old average keeps."""
        return self.profile.beta(images_seen, batch)

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


class Averages:
    """All averages that a run keeps: the one that is used, and those of power functions from which
    others are made afterwards."""

    def __init__(self, used: EMA, lengths: Sequence[float] = ()) -> None:
        self.used = used
        self.powers = {
            length: EMA(used.source, profile=PowerFunction(length)) for length in lengths
        }

    def __iter__(self) -> Iterator[EMA]:
        yield self.used
        yield from self.powers.values()

    @property
    def files(self) -> dict[str, EMA]:
        """Each by the name of its file in a checkpoint."""
        own = {f"power-{length:g}": ema for length, ema in self.powers.items()}
        return {"ema": self.used} | own

    def update(self, images_seen: int, batch: int) -> None:
        """Move all averages after a step; `images_seen` counts those before the step."""
        for ema in self:
            ema.update(images_seen, batch)

    def shard(self, source: nn.Module) -> None:
        """Keep all as the weights of `source` are kept, which were sharded."""
        for ema in self:
            ema.source = source
            ema.shard()
