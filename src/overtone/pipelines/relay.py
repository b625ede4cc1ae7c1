"""Relay diffusion: a second stage goes on where a first ends (arXiv 2309.03350)."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from overtone import storage
from overtone.data import ImageData, open_data, to_unit
from overtone.data.images import Pixels, to_mode
from overtone.errors import OvertoneError, unknown
from overtone.pipelines.base import FIRST_FOLDER, ImagePipeline, load_pipeline, to_pil
from overtone.processes import RelayProcess, SeededNoise
from overtone.processes.noise import mix
from overtone.samplers import Sampler

Stage = Callable[[Sequence[int], Tensor | None], Tensor]
"""Seeds and class labels -> images in [-1, 1], (batch, channels, height, width)."""

_SECOND = 2

FINISHES = {
    "relay-imagenet": ((ImageEnhance.Brightness, 1.06),),
    "relay-celebahq": (
        (ImageEnhance.Contrast, 0.9),
        (ImageEnhance.Brightness, 1.05),
        (ImageEnhance.Color, 0.99),
    ),
}
"""What the published generators do to finished images before they save them."""


def finished(images: Pixels, name: str) -> Pixels:
    """uint8 images after one of `FINISHES`, by Pillow's `ImageEnhance`. Raises `OvertoneError` for
    another name."""
    if name not in FINISHES:
        raise unknown("finish", name, FINISHES)
    done = []
    for image in images.cpu():
        picture = to_pil(image)
        for enhance, factor in FINISHES[name]:
            picture = enhance(picture).enhance(factor)
        done.append(picture)
    return _pixels_of(done, images.shape[1])


class RelayPipeline(ImagePipeline):
    """Images of a first stage, continued at `process.patch` times their resolution.

        pipe = RelayPipeline.from_pretrained("runs/relay-glyphs/checkpoints/000040000")
        pipe.first = load_pipeline("runs/relay-glyphs-16/checkpoints/000120000")
        images = pipe(seeds=range(16), class_labels=3)
        larger = pipe.upscale(pictures, class_labels=[0, 1, 2])

    The network is the second stage's. It begins with the first stage's images, each pixel repeated
    over a patch, and noise of the highest of its levels:

        x = upsampled + sigma noise,   sigma = sampler.sigma_start

    The second stage's noise depends on an image's seed alone, and is none that a first stage draws
    from the same seed. Raises `OvertoneError` for a sampler that begins above the levels that the
    process reaches.
    """

    default_process = RelayProcess()
    default_sampler = Sampler(num_steps=16, sigma_min=0.008, sigma_max=0.9, estimate="two_step")
    process: RelayProcess

    def __init__(self, network: Any, *args: Any, **settings: Any) -> None:
        super().__init__(network, *args, **settings)
        if not isinstance(self.process, RelayProcess):
            raise OvertoneError(
                f"a RelayPipeline inverts a RelayProcess, not a {type(self.process).__name__}."
            )
        if self.resolution % self.process.patch:
            raise OvertoneError(
                f"{self.resolution} px do not divide into patches of {self.process.patch} px."
            )
        self._check_levels(self.sampler.sigma_start)
        self.first = None

    @property
    def first(self) -> Any:
        """The first stage; None before one is given. May be set to

        an Overtone pipeline, which is saved with this one and keeps its own sampler and guidance;
        a diffusers pipeline;
        images: a tensor, uint8 or in [-1, 1], or a data set by its name, as for `open_data`, of
        which seed k continues image k modulo their number;
        a function from seeds and class labels to images in [-1, 1].

        Raises `OvertoneError` if the two stages do not meet.
        """
        return self._first

    @first.setter
    def first(self, first: Any) -> None:
        if isinstance(first, ImagePipeline):
            here, there = self.num_classes, first.num_classes
            if there != here:
                raise OvertoneError(
                    f"the stages do not meet: the first has {there} classes, the second {here}."
                )
            if first.class_names and self.class_names and first.class_names != self.class_names:
                raise OvertoneError(
                    "the stages do not meet: their classes have other names, or another order"
                    f" ({', '.join(first.class_names[:3])}, ... and"
                    f" {', '.join(self.class_names[:3])}, ...)."
                )
            self._check_size(first.channels, first.resolution, first.resolution)
            if first.device != self.device:  # experts that reside there stay as they are
                first.to(self.device)
        data: ImageData | None = None
        if isinstance(first, str | Path):
            low = self.resolution // self.process.patch
            data = open_data(str(first), low, self.channels)
        if isinstance(first, Tensor):
            first = _images(first)
        if first is not None:
            _stage(first if data is None else data)  # which refuses what it does not know
        self._first, self._data = first, data

    def upscale(
        self,
        images: Tensor | Image.Image | Sequence[Image.Image],
        class_labels: Sequence[int] | int | None = None,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> list[Image.Image]:
        """Images of the lower resolution, continued: one for each.

        Arguments:
            images: (batch, channels, height, width), uint8 or in [-1, 1]; or a picture, or several
                of one size, read as training images are.
            class_labels: as for a call. A conditional model has to be told.
            seeds: of the noise; 0, 1, ... where left out.
            settings: the other arguments of a call.

        Raises `OvertoneError` for another size than 1 / `process.patch` of the model's.
        """
        if not isinstance(images, Tensor):
            pictures = [images] if isinstance(images, Image.Image) else images
            images = _pixels_of(pictures, self.channels)
        if self.num_classes and class_labels is None:
            raise OvertoneError(
                f"this model has {self.num_classes} classes: say what the images show, by"
                " class_labels."
            )
        seeds = range(len(images)) if seeds is None else seeds
        if len(seeds) != len(images):
            raise OvertoneError(f"{len(seeds)} seeds for {len(images)} images.")
        own, stage, numbers = copy.copy(self), _pick(_images(images)), iter(range(len(images)))
        # Seeds are taken in order, and may repeat.
        own._first = lambda part, labels: stage([next(numbers) for _ in part], labels)
        own._data = None
        return own(seeds, class_labels, **settings)

    def to(self, device: str | torch.device, *, resident: int | None = None) -> Self:
        super().to(device, resident=resident)
        if isinstance(self._first, ImagePipeline) and self._first.device != self.device:
            self._first.to(device)
        return self

    def compile(self) -> Self:
        super().compile()
        if isinstance(self._first, ImagePipeline):
            self._first.compile()
        return self

    def noise_of(self, seeds: Sequence[int]) -> SeededNoise:
        super().noise_of(seeds)  # which checks them
        # Another stream than the first stage's, which may be a relay, of another resolution.
        return SeededNoise(mix(seed, _SECOND, self.resolution) for seed in seeds)

    def start(
        self,
        seeds: Sequence[int],
        class_labels: Tensor | None,
        sigma: float,
        source: SeededNoise,
    ) -> Tensor:
        """The first stage's images upsampled, and noise of standard deviation `sigma`."""
        self._check_levels(sigma)
        if self._first is None:
            raise OvertoneError(
                "this is a second stage, which goes on from images: set pipe.first to a pipeline"
                " or to images, or pass --first (a model, a folder of images, ...)."
            )
        # It has a precision of its own, which is not the one around this stage's steps.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            stage = _stage(self._first if self._data is None else self._data)
            low = stage(seeds, class_labels)
        if not isinstance(low, Tensor) or low.dim() != 4 or len(low) != len(seeds):
            raise OvertoneError(
                f"the first stage made {_said(low)} for {len(seeds)} seeds: it returns a tensor of"
                " as many images, (batch, channels, height, width)."
            )
        low = low.to(self.device)
        self._check_size(*low.shape[1:])
        upsampled = F.interpolate(low, scale_factor=self.process.patch, mode="nearest")
        return upsampled.add(self.process.noise(upsampled, source), alpha=sigma)

    def write_into(self, folder: Path) -> None:
        super().write_into(folder)
        if isinstance(self._first, ImagePipeline):
            (folder / FIRST_FOLDER).mkdir()
            self._first.write_into(folder / FIRST_FOLDER)

    def _notes(self) -> list[str]:
        if isinstance(self._first, ImagePipeline):
            size = self._first.network.num_parameters / 1e6
            return [
                *super()._notes(),
                f"The first stage, {size:.2f} M parameters more, is in first/.",
            ]
        note = "It goes on from images: set `pipe.first`, or pass `--first`, to a model or images."
        return [*super()._notes(), note]

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None) -> Self:
        folder = storage.locate(name, revision)
        pipe = super().from_pretrained(folder)
        if (folder / FIRST_FOLDER).is_dir():
            pipe.first = load_pipeline(folder / FIRST_FOLDER)
        return pipe

    def _labels(
        self, seeds: list[int], class_labels: Sequence[int] | Tensor | int | None
    ) -> Tensor | None:
        if class_labels is None and self.num_classes:
            numbers = self._classes_of_data()
            if self._data is not None and numbers:
                labels = self._data.classes(_cycled(seeds, len(self._data)))
                class_labels = [numbers[label] for label in labels.tolist()]
            elif isinstance(self._first, Tensor | str | Path):
                raise OvertoneError(
                    f"this model has {self.num_classes} classes: say what the images show, by"
                    " class_labels (--classes)."
                )
        return super()._labels(seeds, class_labels)

    def _classes_of_data(self) -> list[int]:
        """The model's number of each class of the first stage's images, by name; empty where they
        are not the same classes."""
        own = self._data.class_names if self._data is not None else ()
        if not self.class_names:  # converted, say: then by number
            return list(range(len(own))) if len(own) == self.num_classes else []
        known = {name: number for number, name in enumerate(self.class_names)}
        return [known[name] for name in own] if set(own) <= set(known) else []

    def _check_levels(self, sigma: float) -> None:
        highest = float(self.process.schedule.sigma(1.0))
        if sigma > highest:
            raise OvertoneError(
                f"the sampler begins at sigma {sigma:.3g}, and the process ends at {highest:.3g}:"
                " choose a sigma_max, or a truncation_sigma, below that."
            )

    def _check_size(self, channels: int, height: int, width: int) -> None:
        patch = self.process.patch
        if (height * patch, width * patch) != (self.resolution, self.resolution):
            raise OvertoneError(
                f"the stages do not meet: images of {height} x {width} px, {patch} times enlarged,"
                f" are {height * patch} x {width * patch} px, and the second stage makes"
                f" {self.resolution} x {self.resolution} px."
            )
        if channels != self.channels:
            raise OvertoneError(
                f"the stages do not meet: images with {channels} channels, and the second stage has"
                f" {self.channels}."
            )


def _stage(first: Any) -> Stage:
    """What may be a first stage as the function that it is."""
    if isinstance(first, ImagePipeline):
        if first.image_resolution is not None and first.vae is None:
            raise OvertoneError("the first stage makes latents and has no VAE: set its vae first.")
        return lambda seeds, labels: _last(first, seeds, labels)
    if isinstance(first, Tensor):
        return _pick(first)
    if isinstance(first, ImageData):
        return lambda seeds, labels: to_unit(first.fetch(_cycled(seeds, len(first)))[0])
    if any(kind.__name__ == "DiffusionPipeline" for kind in type(first).__mro__):
        return _foreign(first)
    if callable(first):
        return first
    raise OvertoneError(
        f"a first stage is a pipeline, images, or a function, not a {type(first).__name__}."
    )


def _said(made: Any) -> str:
    return f"a tensor {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__


def _cycled(seeds: Sequence[int], count: int) -> list[int]:
    return [seed % count for seed in seeds]


def _last(pipe: ImagePipeline, seeds: Sequence[int], labels: Tensor | None) -> Tensor:
    """The images of a pipeline before they are rounded to bytes."""
    for step in pipe.path(seeds, labels):
        x = step.x
    return x if pipe.vae is None else pipe.vae.decode(x).float()


def _images(images: Tensor) -> Tensor:
    """Images as uint8 or in [-1, 1]; looked at once, and not with each batch."""
    if images.dim() != 4:
        raise OvertoneError(
            f"images are (batch, channels, height, width), not of shape {tuple(images.shape)}."
        )
    if images.numel() and images.is_floating_point() and float(images.abs().max()) > 2:
        raise OvertoneError("images of floating-point numbers are in [-1, 1]: others are uint8.")
    if not images.is_floating_point():
        if images.numel() and not 0 <= int(images.min()) <= int(images.max()) <= 255:
            raise OvertoneError("images of whole numbers are in [0, 255].")
        images = images.to(torch.uint8)
    return images


def _pick(images: Tensor) -> Stage:
    def stage(seeds: Sequence[int], labels: Tensor | None) -> Tensor:
        picked = images[_cycled(seeds, len(images))]
        return to_unit(picked) if picked.dtype == torch.uint8 else picked.float()

    return stage


def _foreign(pipe: Any) -> Stage:
    """diffusers' pipeline as a first stage; one generator an image."""
    known = inspect.signature(pipe.__call__).parameters

    def stage(seeds: Sequence[int], labels: Tensor | None) -> Tensor:
        arguments: dict[str, Any] = {
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "output_type": "np",
        }
        if "batch_size" in known:
            arguments["batch_size"] = len(seeds)
        if labels is not None and "class_labels" not in known:
            raise OvertoneError(
                "the stages do not meet: the second is asked for classes, and the first has none."
            )
        if "class_labels" in known:
            if labels is None:
                raise OvertoneError(
                    "the stages do not meet: the first is asked for classes, and the second has"
                    " none."
                )
            arguments["class_labels"] = labels.tolist()
        images = torch.from_numpy(pipe(**arguments).images)
        return 2 * images.permute(0, 3, 1, 2).float() - 1

    return stage


def _pixels_of(pictures: Sequence[Image.Image], channels: int) -> Pixels:
    import numpy as np

    if any(not isinstance(picture, Image.Image) for picture in pictures):
        raise OvertoneError("images are a tensor, or Pillow's pictures: Image.fromarray makes one.")
    sizes = sorted({picture.size for picture in pictures})
    if len(sizes) != 1:
        said = ", ".join(f"{width} x {height}" for width, height in sizes) or "none"
        raise OvertoneError(f"pictures of one size are continued together, and these are {said}.")
    arrays = []
    for number, picture in enumerate(pictures):
        try:
            picture, _ = to_mode(ImageOps.exif_transpose(picture), "L" if channels == 1 else "RGB")
        except ValueError as error:
            raise OvertoneError(f"picture {number} can't be read ({error}).") from None
        arrays.append(np.asarray(picture).reshape(picture.height, picture.width, channels))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
