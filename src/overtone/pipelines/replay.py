"""Making an image again from its receipt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from overtone import settings
from overtone.data.images import Pixels
from overtone.denoisers.guidance import GuidanceSettings
from overtone.errors import OvertoneError
from overtone.pipelines.environment import environment
from overtone.pipelines.known import weights_of
from overtone.pipelines.pictures import finished, pixels_of
from overtone.pipelines.pipeline import Pipeline
from overtone.pipelines.receipt import Receipt, account_differences, digest_of_pixels
from overtone.pipelines.request import Request
from overtone.pipelines.seeds import text_of
from overtone.samplers.loop import SamplingLoop
from overtone.samplers.schedulers import scheduler_sampler

SHOWN = 5


@dataclass(frozen=True)
class Replay:
    """An image made again, and how it compares."""

    seed: int
    image: Tensor
    """The image is uint8 (channels, height, width)."""
    equal: bool | None
    """Whether the image is the very same. None means that there is nothing to compare it with."""
    greys: int | None
    """The largest difference in grey levels, where the pixels are there."""
    differences: tuple[str, ...]
    """What has changed in the code, the packages and the hardware, one sentence each."""
    receipt: Receipt
    """The receipt of the image as it was made now."""

    @property
    def succeeded(self) -> bool:
        """Whether it is the same, or within one grey level."""
        return bool(self.equal) or (self.greys is not None and self.greys <= 1)


class Replayer:
    """A pipeline set up as a receipt says.

    Raises `OvertoneError` for a pipeline of other weights, and for one that makes other images in
    any other way, naming what differs.
    """

    def __init__(
        self,
        pipe: Pipeline,
        receipt: Receipt,
        *,
        guide: Pipeline | None = None,
        picture: Image.Image | None = None,
        mask: Image.Image | None = None,
    ) -> None:
        self.pipe, self.receipt, self.guide = pipe, receipt, guide
        self.picture, self.mask = picture, mask
        _set_up(pipe, receipt.account)
        _check_guide(receipt, guide)
        self._check_picture()
        if receipt.compile:
            pipe.compile()
        # Of the threads there are as many as there were, whatever this process has.
        now = environment(pipe)
        self.environment = replace(now, threads=receipt.environment.threads or now.threads)
        self.differences = tuple(receipt.environment.differences(self.environment))

    def of(self, seed: int, shown: Pixels | None = None) -> Replay:
        """The image of a seed, made in the batch in which it was made. `shown` is the image as it
        was kept, (channels, height, width)."""
        receipt = self.receipt
        seeds, labels = receipt.batch_of(seed)
        request = Request(seeds, labels, batch_size=len(seeds), guide=self.guide)
        self._check_account(request)
        threads = torch.get_num_threads()
        torch.set_num_threads(self.environment.threads)
        try:
            images = self._made(request)
        finally:
            torch.set_num_threads(threads)
        if receipt.finish is not None:
            images = finished(images, receipt.finish)
        image, equal, greys = images[seeds.index(seed)], None, None
        made = self._receipt(seeds, labels, seed, image)
        if shown is not None:
            if shown.shape != image.shape:
                raise OvertoneError(
                    f"the picture is {tuple(shown.shape)}, and its receipt is of an image"
                    f" {tuple(image.shape)}: it was changed since."
                )
            greys = int((shown.int() - image.int()).abs().max())
            equal = greys == 0
        elif receipt.pixels is not None:
            equal = digest_of_pixels(image) == receipt.pixels
        return Replay(seed, image, equal, greys, self.differences, made)

    def _receipt(
        self, seeds: list[int], labels: list[int] | None, seed: int, image: Tensor
    ) -> Receipt:
        """The receipt of an image that was made now, which holds no more than its batch."""
        return replace(
            self.receipt,
            seeds=text_of(seeds),
            class_labels=tuple(labels or ()),
            batch_size=len(seeds),
            processes=1,
            seed=seed,
            pixels=digest_of_pixels(image),
            environment=self.environment,
        )

    def _made(self, request: Request) -> Pixels:
        edit = self.receipt.edit
        if edit is None:
            return torch.cat([batch.images for batch in self.pipe.stream(request)])
        assert self.picture is not None
        made = self.pipe.edit(
            self.picture,
            edit.strength,
            self.mask,
            request.class_labels,
            request.seeds,
            edit.resamples,
            batch_size=request.batch_size,
            guide=self.guide,
        )
        return pixels_of(made, self.pipe.channels)

    def _check_account(self, request: Request) -> None:
        found = account_differences(self.receipt.account, self.pipe.made_with(request))
        if found:
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise OvertoneError(
                f"the model makes other images than the receipt is of: {', '.join(found[:SHOWN])}"
                f"{more} differ."
            )

    def _check_picture(self) -> None:
        edit = self.receipt.edit
        if edit is None:
            return
        for name, picture, digest, channels in (
            ("picture", self.picture, edit.picture, self.pipe.channels),
            ("mask", self.mask, edit.mask, 1),
        ):
            if digest is None:
                continue
            if picture is None:
                raise OvertoneError(
                    f"the image was made from a {name} that its receipt does not hold: pass"
                    f" --{name} FILE."
                )
            if digest_of_pixels(pixels_of([picture], channels)[0]) != digest:
                raise OvertoneError(f"--{name} is another {name} than the receipt is of.")


def check_weights(pipe: Pipeline, receipt: Receipt, name: str) -> None:
    """Raises `OvertoneError` for a model of other weights than a receipt's."""
    own, wanted = pipe.made_with().get("weights"), weights_of(receipt.account)
    if own != wanted:
        raise OvertoneError(
            f"{name} has other weights than the receipt is of: {own}, and not {wanted}."
        )


def _set_up(pipe: Pipeline, account: dict[str, Any]) -> None:
    """Give a pipeline, and its first stage, the sampler, the guidance and the precision of an
    account."""
    pipe.precision = account["precision"]
    kind = str(account["sampler"].get("kind")) if isinstance(account["sampler"], dict) else None
    if kind in SamplingLoop.family.built_in or kind in SamplingLoop.family.kinds:
        family: Any = SamplingLoop
        pipe.sampler = settings.load(family, account["sampler"], "the receipt's sampler")
    else:
        pipe.sampler = scheduler_sampler(account["sampler"])
    pipe.guidance = settings.load(GuidanceSettings, account["guidance"], "the receipt's guidance")
    first = account["start"].get("first_stage") if isinstance(account["start"], dict) else None
    stage = pipe.start.pipeline
    if isinstance(first, dict) and "sampler" in first and stage is not None:
        _set_up(stage, first)


def _check_guide(receipt: Receipt, guide: Pipeline | None) -> None:
    wanted = weights_of(receipt.account, "guide")
    if wanted is not None and guide is None:
        raise OvertoneError(
            f"the image was guided by another model, whose weights are {wanted}: pass it, --guide"
            " MODEL."
        )
    if wanted is None and guide is not None:
        raise OvertoneError("--guide: the image was made without a guide: leave it out.")
