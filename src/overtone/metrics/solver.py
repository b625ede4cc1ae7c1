"""Solver error: how far a sampler's images are from those that its steps converge to.

The probability-flow ODE takes each start to one image. A sampler with few steps misses it, and may
even look better for it to features, as it can sharpen images. So images are compared with the
converged ones of the same seeds, pixel by pixel, before they are rounded.

The converged image is computed in float32, from the same start, by `CONVERGED` steps of Heun's
method, which is of second order: half as many steps miss the limit by four times as much, so that a
third of the difference between the two says how far from it the converged ones are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from overtone.errors import OvertoneError
from overtone.metrics.cache import folder
from overtone.metrics.parts import SQUARED_ERRORS
from overtone.metrics.scores import Score
from overtone.metrics.vectors import FeatureFile, Vectors
from overtone.samplers.sampler import Sampler, sigma_grid
from overtone.sizes import sides

if TYPE_CHECKING:
    from overtone.pipelines.batches import SampleBatch
    from overtone.pipelines.pipeline import Pipeline
    from overtone.pipelines.request import Request
    from overtone.samplers.loop import SamplingLoop

Kept = dict[tuple["SamplingLoop | None", ...], Vectors]
"""converged images by the solver that made them and the sampler of what they start from"""

CONVERGED = 128
"""noise levels of the solver whose images are taken for converged"""
LOWEST = 0.002
"""the last of them, unless the sampler goes lower"""


def evaluated(
    scores: Sequence[Score],
    pipe: Pipeline,
    request: Request,
    kept: Kept | None = None,
) -> Callable[[Iterable[SampleBatch]], Iterator[tuple[Any, ...]]]:
    """What makes of a request's batches what an evaluation with these scores takes.

    `kept` keeps converged images, for the same request with other samplers or steps. Raises
    `OvertoneError`, before anything is made, where the solver error is among the scores and can't
    be told.
    """
    if any(SQUARED_ERRORS in score.needs for score in scores):
        return Converged(pipe, request, kept=kept).batches
    return lambda batches: ((batch.images, batch.class_labels) for batch in batches)


class Converged:
    """The converged images of a request's seeds.

    Raises `OvertoneError` for a sampler that draws noise, whose images do not follow from their
    starts, and for an operator, which takes no steps.
    """

    def __init__(
        self,
        pipe: Pipeline,
        request: Request,
        steps: int = CONVERGED,
        kept: Kept | None = None,
    ) -> None:
        request = pipe.settled(request)
        own: Any = pipe.sampler_of(request)
        if own.draws_noise or own.is_operator:
            why = "asks an operator" if own.is_operator else "draws noise on the way"
            raise OvertoneError(
                "the solver error needs a sampler of steps that draw no noise, and this"
                f" {own.kind or 'sampler'} {why}: leave solver-error out of --scores."
            )
        self.pipe, self.request, self.kept = pipe, request, kept
        lowest = min(getattr(own, "sigmas", (LOWEST,))[:-1] or (LOWEST,))
        self.finest, self.coarser = (
            _heun(count, min(lowest, LOWEST), own.sigma_start) for count in (steps, steps // 2)
        )

    def batches(self, batches: Iterable[SampleBatch]) -> Iterator[tuple[Any, ...]]:
        """Batches of the request as an evaluation takes them, with the squared error of each
        image."""
        known = {} if self.kept is None else self.kept
        key = (self.finest, self.request.first_sampler)
        if key in known or self.kept is None:
            yield from self._compared(batches, known.get(key), None)
            return
        dims = self.pipe.channels * math.prod(sides(self.pipe.resolution))
        with FeatureFile(folder(), dims) as file:
            yield from self._compared(batches, None, file)
            known[key] = file.vectors()

    def _compared(
        self, batches: Iterable[SampleBatch], known: Vectors | None, file: FeatureFile | None
    ) -> Iterator[tuple[Any, ...]]:
        """`batches`, with the converged images of a file or new ones, which may go into one."""
        at = 0
        for batch in batches:
            made = batch.unrounded
            if known is None:
                converged = self._images(self.finest, batch)
            else:
                converged = known.read(at, at + len(made)).view(made.shape).to(made.device)
            if file is not None:
                file.add(converged.flatten(1).cpu())
            at += len(made)
            errors = _mean_square(made, converged)
            yield batch.images, batch.class_labels, {SQUARED_ERRORS: errors[:, None].cpu()}

    def remaining(self, batch: SampleBatch) -> float:
        """The root mean square error that is left in the converged images of a batch, about."""
        finest, coarser = (self._images(s, batch) for s in (self.finest, self.coarser))
        return float(_mean_square(finest, coarser).mean().sqrt()) / 3

    def _images(self, sampler: SamplingLoop, batch: SampleBatch) -> Tensor:
        pipe, labels = self.pipe, batch.class_labels
        part: Any = replace(
            self.request, seeds=batch.seeds, class_labels=labels, steps=None, sampler=sampler
        )
        before = pipe.precision
        try:
            pipe.precision = "fp32"
            return torch.cat([made.unrounded.float() for made in pipe.stream(part)])
        finally:
            pipe.precision = before


def _heun(steps: int, lowest: float, highest: float) -> SamplingLoop:
    levels = sigma_grid(steps, lowest, highest)[:-1]
    return Sampler(num_steps=steps, levels=levels, estimate="averaged_slopes")


def _mean_square(images: Tensor, others: Tensor) -> Float[Tensor, " batch"]:
    """Of images in [-1, 1], to which they are clipped."""
    difference = images.float().clamp(-1, 1) - others.clamp(-1, 1)
    return difference.square().flatten(1).mean(dim=1)
