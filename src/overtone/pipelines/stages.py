"""What may be the first stage of a relay: whatever makes images from seeds and classes."""

from __future__ import annotations

import hashlib
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from overtone import settings
from overtone.data.images import ImageData, to_unit
from overtone.data.open import open_data, public_name
from overtone.errors import OvertoneError
from overtone.networks.network import digest_of
from overtone.pipelines.request import Request
from overtone.sizes import shown, sides

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline
    from overtone.samplers.loop import SamplingLoop


class FirstStage(ABC):
    """Images from seeds and classes, and what a second stage has to know of them."""

    pipeline: Pipeline | None = None
    """The first stage as a pipeline, which is saved, moved and compiled with the second stage."""

    def check(self, num_classes: int, class_names: Sequence[str]) -> None:  # noqa: B027
        """Raises `OvertoneError` for a second stage of other classes."""

    @property
    def networks(self) -> Mapping[str, nn.Module] | None:
        """What its images are evaluations of, by name, where it is no pipeline of Overtone's: none
        of images that are there; None where that is not known."""
        return None

    @property
    def size(self) -> tuple[int, int, int] | None:
        """Channels, height and width of its images, where they are known before they are made."""
        return None

    def labels(
        self, seeds: Sequence[int], num_classes: int, class_names: Sequence[str]
    ) -> list[int] | None:
        """The class of each seed's image, if the images have classes of their own; None leaves it
        to the second stage. Raises `OvertoneError` where somebody has to say it."""
        return None

    def opened(self, resolution: int | tuple[int, int], channels: int) -> FirstStage:
        """The stage at the size that the second one wants, if it has a choice."""
        return self

    def with_sampler(self, sampler: SamplingLoop) -> FirstStage:
        """The stage with another sampler. Raises `ValueError` for one that samples nothing."""
        raise ValueError("a first_sampler is for a first stage that is a model of Overtone's")

    @abstractmethod
    def images(self, seeds: Sequence[int], class_labels: Tensor | None) -> Tensor:
        """(batch, channels, height, width), in [-1, 1]."""

    def facts(self) -> dict[str, Any]:
        """All that is known of what its images depend on, as JSON. A function is known by its name
        only."""
        return {"kind": type(self).__name__}


class PipelineStage(FirstStage):
    """Another pipeline, with its own sampler, or another, and its own guidance and precision."""

    def __init__(self, pipeline: Pipeline, sampler: SamplingLoop | None = None) -> None:
        if pipeline.image_resolution is not None and pipeline.vae is None:
            raise OvertoneError("the first stage makes latents and has no VAE: set its vae first.")
        self.pipeline: Pipeline = pipeline
        self.sampler = sampler

    def with_sampler(self, sampler: SamplingLoop) -> FirstStage:
        return PipelineStage(self.pipeline, sampler)

    def check(self, num_classes: int, class_names: Sequence[str]) -> None:
        own = self.pipeline
        if own.num_classes != num_classes:
            raise OvertoneError(
                "the stages have different numbers of classes: the first has"
                f" {own.num_classes}, the second {num_classes}."
            )
        if own.class_names and class_names and own.class_names != tuple(class_names):
            raise OvertoneError(
                "the stages do not fit together: their classes have other names, or another order"
                f" ({', '.join(own.class_names[:3])}, ... and {', '.join(class_names[:3])}, ...)."
            )

    @property
    def size(self) -> tuple[int, int, int]:
        return self.pipeline.channels, *sides(self.pipeline.resolution)

    def images(self, seeds: Sequence[int], class_labels: Tensor | None) -> Tensor:
        """Before they are rounded to bytes."""
        for step in self.pipeline.path(seeds, class_labels, sampler=self.sampler):
            x = step.x
        return x if self.pipeline.vae is None else self.pipeline.vae.decode(x).float()

    def facts(self) -> dict[str, Any]:
        if self.sampler is None:
            return self.pipeline.made_with()
        return self.pipeline.made_with(Request((), sampler=self.sampler))


class ImageStage(FirstStage):
    """Images that are there: seed k continues image k modulo their number."""

    def __init__(self, images: Tensor) -> None:
        self.tensor = checked_images(images)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {}

    @property
    def size(self) -> tuple[int, int, int]:
        _, channels, height, width = self.tensor.shape
        return channels, height, width

    def labels(
        self, seeds: Sequence[int], num_classes: int, class_names: Sequence[str]
    ) -> list[int] | None:
        _check_said(num_classes)
        return None

    def facts(self) -> dict[str, Any]:
        shape, images = list(self.tensor.shape), self.tensor.cpu().contiguous()
        digest = hashlib.sha256(images.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
        return super().facts() | {"shape": shape, "digest": digest}

    def images(self, seeds: Sequence[int], class_labels: Tensor | None) -> Tensor:
        picked = self.tensor[_cycled(seeds, len(self.tensor))]
        return to_unit(picked) if picked.dtype == torch.uint8 else picked.float()


class InTurn(FirstStage):
    """Images taken one after the other, whatever the seeds, which may repeat."""

    def __init__(self, images: Tensor) -> None:
        self.given, self.taken = ImageStage(images), 0

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {}

    def images(self, seeds: Sequence[int], class_labels: Tensor | None) -> Tensor:
        numbers = range(self.taken, self.taken + len(seeds))
        self.taken += len(seeds)
        return self.given.images(numbers, class_labels)

    def facts(self) -> dict[str, Any]:
        return self.given.facts() | super().facts()


class DataStage(FirstStage):
    """The images of a data set, by its name as for `open_data`, or opened: as `ImageStage`."""

    def __init__(self, data: str | ImageData) -> None:
        self.data = data

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {}

    def opened(self, resolution: int | tuple[int, int], channels: int) -> FirstStage:
        if not isinstance(self.data, str):
            return self
        data = open_data(self.data, resolution, channels)
        if data.resized:
            cropped = "squares" if isinstance(resolution, int) else "these proportions"
            print(
                f"{self.data}: {data.resized:,} images of another size are cropped to {cropped} and"
                f" made {shown(resolution)} px, which is what this model enlarges",
                file=sys.stderr,
            )
        return DataStage(data)

    def labels(
        self, seeds: Sequence[int], num_classes: int, class_names: Sequence[str]
    ) -> list[int] | None:
        assert not isinstance(self.data, str)
        numbers = self._numbers(num_classes, class_names)
        if not numbers:
            _check_said(num_classes)
            return None
        own = self.data.classes(_cycled(seeds, len(self.data)))
        return [numbers[label] for label in own.tolist()]

    def _numbers(self, num_classes: int, class_names: Sequence[str]) -> list[int]:
        """The model's number of each class of the data, by name, or, where the model's classes have
        no names, by number; empty where they are not the same classes."""
        assert not isinstance(self.data, str)
        own = self.data.class_names
        if not class_names:
            return list(range(len(own))) if len(own) == num_classes else []
        known = {name: number for number, name in enumerate(class_names)}
        return [known[name] for name in own] if set(own) <= set(known) else []

    def facts(self) -> dict[str, Any]:
        assert not isinstance(self.data, str)
        name = public_name(self.data.name)
        return super().facts() | {"data": name, "fingerprint": self.data.fingerprint}

    def images(self, seeds: Sequence[int], class_labels: Tensor | None) -> Tensor:
        assert not isinstance(self.data, str)
        return to_unit(self.data.fetch(_cycled(seeds, len(self.data)))[0])


class FunctionStage(FirstStage):
    """A function from seeds and class labels to images in [-1, 1]."""

    def __init__(self, function: Callable[[Sequence[int], Tensor | None], Tensor]) -> None:
        self.function = function

    def facts(self) -> dict[str, Any]:
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return super().facts() | {"function": f"{self.function.__module__}.{name}"}

    def images(self, seeds: Sequence[int], class_labels: Tensor | None) -> Tensor:
        return self.function(seeds, class_labels)


class DiffusersStage(FirstStage):
    """A pipeline of diffusers, with one generator an image."""

    def __init__(self, pipeline: Any) -> None:
        self.foreign = pipeline
        self.known = inspect.signature(pipeline.__call__).parameters

    @property
    def networks(self) -> Mapping[str, nn.Module] | None:
        there = {name: getattr(self.foreign, name, None) for name in ("unet", "transformer")}
        return {name: own for name, own in there.items() if isinstance(own, nn.Module)} or None

    def facts(self) -> dict[str, Any]:
        scheduler: Any = self.foreign.scheduler
        return super().facts() | {
            "pipeline": type(self.foreign).__name__,
            "scheduler": type(scheduler).__name__,
            "config": settings.jsonable(scheduler.config),
            "weights": {
                name: digest_of(module)
                for name, module in self.foreign.components.items()
                if isinstance(module, torch.nn.Module)
            },
        }

    def images(self, seeds: Sequence[int], class_labels: Tensor | None) -> Tensor:
        arguments: dict[str, Any] = {
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "output_type": "np",
        }
        if "batch_size" in self.known:
            arguments["batch_size"] = len(seeds)
        if class_labels is not None and "class_labels" not in self.known:
            raise OvertoneError(
                "the stages do not fit together: the second is asked for classes, and the first has"
                " none. Choose another first stage."
            )
        if "class_labels" in self.known:
            if class_labels is None:
                raise OvertoneError(
                    "the stages do not fit together: the first needs classes, and the second has"
                    " none."
                )
            arguments["class_labels"] = class_labels.tolist()
        images = torch.from_numpy(self.foreign(**arguments).images)
        return 2 * images.permute(0, 3, 1, 2).float() - 1


@singledispatch
def stage_of(first: Any) -> FirstStage:
    """What may be a first stage as the stage that it is: a pipeline, one of diffusers, images as a
    tensor (uint8 or in [-1, 1]), a data set or its name, a function. Raises `OvertoneError` for
    anything else. Open: `stage_of.register` adds a type."""
    diffusers = sys.modules.get(
        "diffusers"
    )  # which whoever holds one of its pipelines has imported
    if diffusers is not None and isinstance(first, diffusers.DiffusionPipeline):
        return DiffusersStage(first)
    if callable(first):
        return FunctionStage(first)
    raise OvertoneError(
        f"a first stage is a pipeline, images, or a function, not a {type(first).__name__}."
    )


@stage_of.register
def _(first: FirstStage) -> FirstStage:
    return first


@stage_of.register
def _(first: Tensor) -> FirstStage:
    return ImageStage(first)


@stage_of.register
def _(first: ImageData) -> FirstStage:
    return DataStage(first)


@stage_of.register(str)
@stage_of.register(Path)
def _(first: str | Path) -> FirstStage:
    return DataStage(str(first))


def checked_images(images: Tensor) -> Tensor:
    """Images as uint8 or in [-1, 1]; looked at once, and not with each batch."""
    if images.dim() != 4:
        raise OvertoneError(
            f"images are (batch, channels, height, width), not of shape {tuple(images.shape)}."
        )
    if images.dtype == torch.bool or images.is_complex():
        raise OvertoneError(f"images are uint8 or in [-1, 1], not {images.dtype}.")
    if images.is_floating_point() and not torch.isfinite(images).all():
        raise OvertoneError("the images hold numbers that are not finite.")
    if images.numel() and images.is_floating_point() and float(images.abs().max()) > 2:
        raise OvertoneError("images of floating-point numbers are in [-1, 1]: others are uint8.")
    if not images.is_floating_point():
        if images.numel() and not 0 <= int(images.min()) <= int(images.max()) <= 255:
            raise OvertoneError("images of whole numbers are in [0, 255].")
        images = images.to(torch.uint8)
    return images


def _check_said(num_classes: int) -> None:
    """Somebody has to say what images show whose classes are not known."""
    if num_classes:
        raise OvertoneError(
            f"this model has {num_classes} classes: say what the images show, by class_labels"
            " (--classes)."
        )


def _cycled(seeds: Sequence[int], count: int) -> list[int]:
    return [seed % count for seed in seeds]
