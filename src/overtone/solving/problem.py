"""What a sampler is fitted to: starts, and the converged images that they lead to.

The probability-flow ODE takes each start to one image. It is solved by many steps of a solver of
third order, in float32, and a sampler of few steps is fitted so that its images come near to those.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from overtone import precision
from overtone.errors import OvertoneError
from overtone.pipelines.request import Request
from overtone.processes.noise import SeededNoise
from overtone.samplers.sampler import Sampler, sigma_grid

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline
    from overtone.samplers.loop import SamplingLoop

CONVERGED = 64
"""noise levels of the solver whose images are taken for converged"""

Told = Callable[[float], None]
"""is told of network evaluations that have been done"""


def converged_sampler(sampler: SamplingLoop) -> Sampler:
    """The solver that converges, from where a sampler begins down to where it ends."""
    levels = sigma_grid(CONVERGED, sampler.visited[-1], sampler.sigma_start)[:-1]
    return Sampler(num_steps=CONVERGED, levels=levels, estimate="three_step")


@dataclass(frozen=True)
class Problem:
    """Starts of some seeds and the images that they lead to, (images, channels, height, width) in
    [-1, 1] or latents, on the host.

    A sampler's error is the mean over the images of the root mean square distance of their values.
    """

    pipe: Pipeline
    request: Request
    """The seeds, their classes, the guidance, and the number of images at a time."""
    start: Tensor
    target: Tensor
    labels: Tensor | None

    @classmethod
    def of(cls, pipe: Pipeline, request: Request, told: Told = lambda done: None) -> Problem:
        """The converged images of a request's seeds; a first stage's are converged too."""
        first = pipe.start.pipeline
        if first is not None:
            request = replace(request, first_sampler=converged_sampler(first.sampler))
        request = replace(request, sampler=converged_sampler(pipe.sampler))
        starts, targets, labels = _solved(pipe, request, told)
        request = replace(request, sampler=None, first_sampler=None)
        return cls(pipe, request, starts, targets, labels)

    def __len__(self) -> int:
        return len(self.start)

    def part(self, count: int) -> Problem:
        """The first images."""
        labels = None if self.labels is None else self.labels[:count]
        request = self.request.part(slice(0, count), labels)
        return replace(
            self, request=request, start=self.start[:count], target=self.target[:count],
            labels=labels,
        )  # fmt: skip

    def begun_with(self, first_sampler: SamplingLoop, told: Told = lambda done: None) -> Problem:
        """The same images, begun with those that another sampler of the first stage makes."""
        request = replace(self.request, first_sampler=first_sampler)
        starts, _, _ = _solved(self.pipe, request, told, whole=False)
        return replace(self, request=request, start=starts)

    @property
    def denoiser(self) -> Any:
        """The denoiser, under guidance."""
        return self.pipe.denoiser_of(self.request)

    def calls_at(self, sigma: float) -> int:
        """The number of function evaluations per image at a noise level."""
        return self.denoiser.calls_at(sigma)

    def calls_of(self, sampler: SamplingLoop) -> int:
        """The number of function evaluations per image."""
        levels = sampler.visited
        calls = sum(map(self.calls_at, levels))
        if sampler.asks_ahead:
            calls += sum(map(self.calls_at, levels[1:]))
        return calls

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Starts, images and classes, where the model is."""
        size = self.request.batch_size
        for at in range(0, len(self), size):
            yield self.chosen(slice(at, at + size))

    def chosen(self, which: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """Some of the starts, images and classes, where the model is."""
        device = self.pipe.device
        labels = None if self.labels is None else self.labels[which].to(device)
        return self.start[which].to(device), self.target[which].to(device), labels

    def error(self, sampler: SamplingLoop, told: Told = lambda done: None) -> float:
        """How far a sampler's images are from the converged ones."""
        denoiser, process, total = self.denoiser, self.pipe.process, 0.0
        for start, target, labels in self.batches():
            with torch.no_grad(), precision.autocast(self.pipe.precision, self.pipe.device):
                made = sampler(denoiser, process, start, SeededNoise([]), labels)
            total += float(distance(made, target).sum())
            told(len(start) * self.calls_of(sampler))
        return total / len(self)


def distance(images: Tensor, others: Tensor) -> Tensor:
    """The root mean square of the differences, one number an image."""
    return (images.float() - others.float()).square().flatten(1).mean(dim=1).sqrt()


def _solved(
    pipe: Pipeline, request: Request, told: Told, *, whole: bool = True
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Starts, what the sampler makes of them unless it is not to be asked, and classes."""
    own = copy.copy(pipe)
    own.precision = "fp32"
    starts, made = [], []
    labels = own.labels(request)
    for at in range(0, len(request.seeds), request.batch_size):
        part = slice(at, at + request.batch_size)
        begun = own.begin(request.part(part, None if labels is None else labels[part]))
        starts.append(begun.start.cpu())
        if whole:
            for step in begun.steps:
                x = step.x
                told(len(x))
            made.append(x.cpu())
    start = torch.cat(starts)
    target = torch.cat(made) if made else start
    if not bool(torch.isfinite(target).all()):
        raise OvertoneError("the model makes images that are not finite: its weights are damaged.")
    return start, target, labels
