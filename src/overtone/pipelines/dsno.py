"""DSNO: images, and the way to them, from one evaluation (Zheng et al. 2022, arXiv 2211.13449)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from overtone import precision as precisions
from overtone.denoisers import OperatorSettings
from overtone.errors import OvertoneError
from overtone.networks import DSNOUNet, TemporalNetwork
from overtone.pipelines.base import ImagePipeline, to_pil, whole_seeds
from overtone.processes import FLOW_TIME, to_vp
from overtone.samplers import OperatorSampler


class DSNOPipeline(ImagePipeline):
    """Images from a network that returns whole trajectories.

        pipe = load_pipeline("models/dsno-digits")
        images = pipe(seeds=range(16), class_labels=3)                     # one evaluation
        frames = pipe(seeds=range(16), return_trajectory=True)             # a list of each image
        states = pipe.trajectory(range(16), times=(0.8, 0.5, 0.3, 0.0))    # a tensor

    Times are t in [0, 1] of the log-SNR cosine schedule, where sigma = tan(pi t / 2) nearly; the
    image's is 0. Asked for others than those trained, the operator answers for those.
    """

    networks = (DSNOUNet, TemporalNetwork)
    network: DSNOUNet | TemporalNetwork
    default_denoiser = OperatorSettings()
    default_sampler = OperatorSampler()
    sampler: OperatorSampler

    def __call__(  # type: ignore[override]
        self,
        seeds: Sequence[int],
        class_labels: Sequence[int] | int | None = None,
        *,
        times: Sequence[float] | None = None,
        return_trajectory: bool = False,
        batch_size: int = 64,
        **others: Any,
    ) -> list[Image.Image] | list[list[Image.Image]]:
        """One image a seed; with `return_trajectory` a list for each, the state at every time, the
        image last.

        Arguments:
            times: of the states, falling to 0 (see above); those that it was trained with, if
                none are given.
            others: the other arguments of an `ImagePipeline`.
        """
        pipe = self.at(times)
        if not return_trajectory:
            return super(DSNOPipeline, pipe).__call__(
                seeds, class_labels, batch_size=batch_size, **others
            )
        if batch_size < 1:
            raise OvertoneError(f"a batch has at least one image, not {batch_size}.")
        seeds, frames = whole_seeds(seeds), []
        labels = self._labels(seeds, class_labels)
        for at in range(0, len(seeds), batch_size):
            own = None if labels is None else labels[at : at + batch_size]
            states = operator_states(pipe, seeds[at : at + batch_size], own, **others)
            rows = pipe.pixels(states.flatten(0, 1)).cpu().unflatten(0, states.shape[:2])
            frames += [[to_pil(image) for image in row] for row in rows]
        return frames

    def trajectory(
        self,
        seeds: Sequence[int],
        class_labels: Sequence[int] | Tensor | int | None = None,
        times: Sequence[float] | None = None,
    ) -> Float[Tensor, "batch times channels height width"]:
        """The states at all times of one batch, in the variance-preserving frame, the start left
        out."""
        return operator_states(self.at(times), seeds, class_labels)

    def at(self, times: Sequence[float] | None) -> DSNOPipeline:
        """This pipeline, asked for the states at other times."""
        if times is None:
            return self
        if isinstance(times, str) or not isinstance(times, Iterable):
            raise OvertoneError(f"times are several numbers that fall to 0, and not {times!r}.")
        try:
            levels = [0.0 if t == 0 else float(FLOW_TIME.sigma(t)) for t in times]
            sampler = dataclasses.replace(self.sampler, levels=(self.sampler.sigma_start, *levels))
        except ValueError as error:
            raise OvertoneError(f"times {tuple(times)}: {error}.") from None
        pipe = copy.copy(self)
        pipe.sampler = sampler
        return pipe


def operator_states(
    pipe: ImagePipeline, seeds: Sequence[int], class_labels: Any = None, **others: Any
) -> Float[Tensor, "batch times channels height width"]:
    """All states that the operator in a pipeline knows of, in the variance-preserving frame.
    `others` are those of `ImagePipeline.begin`."""
    if not isinstance(pipe.sampler, OperatorSampler):
        raise OvertoneError("this model has no operator that knows whole trajectories.")
    if not len(whole_seeds(seeds)):
        raise OvertoneError("there are no seeds, and so no trajectories.")
    whole = dataclasses.replace(pipe.sampler, whole=True)
    pipe = copy.copy(pipe)
    pipe.sampler = whole
    with precisions.autocast(pipe.precision, pipe.device):
        steps = list(pipe.path(seeds, class_labels, **others))
    return torch.stack([to_vp(step.x, step.sigma) for step in steps], dim=1)
