"""Starts: what sampling begins with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from overtone import settings, storage
from overtone.data.images import to_unit
from overtone.errors import OvertoneError
from overtone.pipelines.stages import FirstStage, stage_of
from overtone.precision import exact
from overtone.processes.noise import SeededNoise, mix
from overtone.registry import Kind
from overtone.sizes import divided, sides

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline
    from overtone.processes.gaussian import Process
    from overtone.samplers.loop import SamplingLoop

FIRST_FOLDER = "first"
"""where a relay keeps the pipeline of its first stage"""
_SECOND = 2  # what sets a second stage's noise apart from the first's of the same seed


class Holder(Protocol):
    """What a start has to know of the pipeline that it belongs to."""

    class_names: tuple[str, ...]

    @property
    def process(self) -> Process: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def resolution(self) -> int | tuple[int, int]: ...
    @property
    def vae(self) -> Any: ...
    @property
    def image_resolution(self) -> int | tuple[int, int] | None: ...


class Start(Kind, ABC, family="start", home="overtone.pipelines"):
    """Seeds, labels and a noise level -> what sampling begins with."""

    def joined(self, pipe: Holder) -> Start:
        """The start as part of a pipeline. Raises `OvertoneError` if the two do not fit."""
        return self

    def source(self, seeds: Sequence[int], resolution: int | tuple[int, int]) -> SeededNoise:
        """Where all noise of the images with these seeds comes from. Raises `ValueError` for a seed
        outside [0, 2^32)."""
        return SeededNoise(seeds)

    def labels(
        self, seeds: Sequence[int], num_classes: int, class_names: Sequence[str]
    ) -> list[int] | None:
        """The class of each seed, where what it begins with has one; None where it has not."""
        return None

    @abstractmethod
    def __call__(
        self,
        like: Tensor,
        process: Process,
        sigma: float,
        seeds: Sequence[int],
        class_labels: Tensor | None,
        source: SeededNoise,
    ) -> Tensor:
        """x at noise level `sigma`, in the shape and on the device of `like`, (batch, channels,
        height, width)."""

    level: float | None = None
    """The noise level that sampling begins at, where it is not the sampler's."""

    @property
    def without_pictures(self) -> Start:
        """What sampling begins with where nothing of somebody's pictures is left."""
        return self

    def with_first_sampler(self, sampler: SamplingLoop) -> Start:
        """The start with another sampler of its first stage. Raises `ValueError` where there is no
        first stage that takes one."""
        raise ValueError("a first_sampler is for relays, whose first stage is a model")

    def begun(self, sampler: SamplingLoop) -> tuple[Start, SamplingLoop]:
        """The start and the sampler, each as it goes with the other. Raises `ValueError` where they
        do not."""
        return self, sampler

    def known(self, like: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """What of the clean images is known, and a mask of where; None where nothing is."""
        return None

    def finished(self, pixels: Tensor, seeds: Sequence[int]) -> Tensor:
        """The uint8 images that were made, with what is known of them in its place."""
        return pixels

    @property
    def stage(self) -> FirstStage | None:
        """The first stage that it begins with; None where there is none."""
        return None

    @property
    def pipeline(self) -> Pipeline | None:
        """The pipeline that is part of it, if there is one."""
        return None

    def facts(self) -> dict[str, Any]:
        """All that images depend on, as JSON."""
        return settings.dump(self)

    def note(self) -> str:
        """What the model card says of it."""
        return ""

    def write_into(self, folder: Path, dtype: Any = None) -> None:
        """Files of its own, into a pipeline's directory, weights in another type if there is
        one."""

    def with_files(self, folder: Path, load: Callable[[Path], Pipeline]) -> Start:
        """The start with what `write_into` wrote; `load` opens a pipeline."""
        return self


@dataclass(frozen=True)
class NoiseStart(Start, kind="noise"):
    """Noise: x = sigma noise."""

    def joined(self, pipe: Holder) -> Start:
        if pipe.process.upscale != 1:
            raise OvertoneError(
                f"a {pipe.process.kind} ends in images, not in noise: it begins with a RelayStart,"
                " of the kind 'relay'."
            )
        return self

    def __call__(
        self,
        like: Tensor,
        process: Process,
        sigma: float,
        seeds: Sequence[int],
        class_labels: Tensor | None,
        source: SeededNoise,
    ) -> Tensor:
        return sigma * process.noise(like, source)


@dataclass(frozen=True)
class RelayStart(Start, kind="relay"):
    """The images of a first stage, continued at `process.upscale` times their resolution:

        x = upsampled + sigma noise

    where each pixel is repeated over a patch. The noise depends on the image's seed alone, and
    differs from all noise that a first stage draws from the same seed.
    """

    first_stage: Any = field(default=None, compare=False, metadata={"saved": False})
    """The first stage: a pipeline, which is saved with this one and keeps its own sampler and
    guidance; a diffusers pipeline; images, as a tensor or a data set by its name, of which seed k
    continues image k modulo their number; or a function from seeds and class labels to images. It
    is None before one is given."""

    @property
    def stage(self) -> FirstStage | None:
        """The first stage as one of `stages.FirstStage`."""
        return None if self.first_stage is None else stage_of(self.first_stage)

    def joined(self, pipe: Holder) -> Start:
        upscale = pipe.process.upscale
        if upscale == 1:
            raise OvertoneError(
                f"a relay inverts a process that ends in images, a RelayProcess, and not a"
                f" {pipe.process.kind}."
            )
        stage = self.stage
        if stage is None:
            return self
        stage.check(pipe.num_classes, pipe.class_names)
        stage = stage.opened(divided(pipe.resolution, upscale), pipe.channels)
        if stage.pipeline is not None and stage.size is not None:
            size = pipe.channels, *sides(pipe.resolution)
            _check_size(stage.size, size, upscale)
        return replace(self, first_stage=stage)

    def source(self, seeds: Sequence[int], resolution: int | tuple[int, int]) -> SeededNoise:
        SeededNoise(seeds)  # which checks them
        # Another stream than the first stage's, which may be a relay, of another resolution.
        size = (resolution,) if isinstance(resolution, int) else resolution
        return SeededNoise(mix(seed, _SECOND, *size) for seed in seeds)

    def with_first_sampler(self, sampler: SamplingLoop) -> Start:
        stage = self.stage
        if stage is None:
            return super().with_first_sampler(sampler)
        return replace(self, first_stage=stage.with_sampler(sampler))

    def labels(
        self, seeds: Sequence[int], num_classes: int, class_names: Sequence[str]
    ) -> list[int] | None:
        stage = self.stage
        return None if stage is None else stage.labels(seeds, num_classes, class_names)

    def __call__(
        self,
        like: Tensor,
        process: Process,
        sigma: float,
        seeds: Sequence[int],
        class_labels: Tensor | None,
        source: SeededNoise,
    ) -> Tensor:
        stage = self.stage
        if stage is None:
            raise OvertoneError(
                "this is a second stage, which goes on from images: set pipe.first to a pipeline"
                " or to images, or pass --first (a model, a folder of images, ...)."
            )
        # It has a precision of its own, which is not the one around this stage's steps.
        with torch.no_grad(), exact(like.device):
            low = stage.images(seeds, class_labels)
        if not isinstance(low, Tensor) or low.dim() != 4 or len(low) != len(seeds):
            made = f"a tensor {tuple(low.shape)}" if isinstance(low, Tensor) else type(low).__name__
            raise OvertoneError(
                f"the first stage made {made} for {len(seeds)} seeds: it returns a tensor of"
                " as many images, (batch, channels, height, width)."
            )
        _check_size(tuple(low.shape[1:]), tuple(like.shape[1:]), process.upscale)
        low = to_unit(low) if low.dtype == torch.uint8 else low.float()
        if not torch.isfinite(low).all():
            raise OvertoneError("the first stage made images that are not finite.")
        low = low.to(like.device)
        upsampled = F.interpolate(low, scale_factor=process.upscale, mode="nearest")
        return upsampled.add(process.noise(upsampled, source), alpha=sigma)

    @property
    def pipeline(self) -> Pipeline | None:
        stage = self.stage
        return None if stage is None else stage.pipeline

    def facts(self) -> dict[str, Any]:
        stage = self.stage
        return settings.dump(self) | {"first_stage": None if stage is None else stage.facts()}

    def note(self) -> str:
        if self.pipeline is None:
            return (
                "It goes on from images: set `pipe.first`, or pass `--first`, to a model or images."
            )
        size = self.pipeline.network.num_parameters / 1e6
        return f"The first stage, {size:.2f} M parameters more, is in {FIRST_FOLDER}/."

    def write_into(self, folder: Path, dtype: Any = None) -> None:
        if self.pipeline is not None:
            (folder / FIRST_FOLDER).mkdir()
            self.pipeline.write_into(folder / FIRST_FOLDER, dtype)

    def with_files(self, folder: Path, load: Callable[[Path], Pipeline]) -> Start:
        if not (folder / FIRST_FOLDER).is_dir():
            return self
        return replace(self, first_stage=load(storage.below(folder, FIRST_FOLDER)))


def _check_size(low: tuple[int, ...], high: tuple[int, ...], upscale: int) -> None:
    channels, height, width = low
    if (height * upscale, width * upscale) != tuple(high[1:]):
        raise OvertoneError(
            f"the stages' sizes do not match: images of {height} x {width} px, {upscale} times"
            f" enlarged, are {height * upscale} x {width * upscale} px, and the second stage makes"
            f" {high[1]} x {high[2]} px."
        )
    if channels != high[0]:
        raise OvertoneError(
            f"the stages do not fit together: the images have {channels} channels, and the"
            f" second stage has {high[0]}."
        )
