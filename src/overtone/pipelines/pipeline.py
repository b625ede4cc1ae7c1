"""A pipeline: the parts that make images, composed and checked together.

    network under a preconditioning, process, sampler, guidance, start, VAE

From seeds and classes to images or trajectories. Saved as a directory of data only,

    README.md samples.png     the model card, and the samples that it shows
    pipeline.json             the parts, as a table
    network/config.json       the network's settings
    network/model.safetensors its weights
    vae/                      of a model of latents, diffusers' files of the VAE that decodes them
    first/                    of a relay, the pipeline that its first stage is

read without executing anything in it and without following any path named in it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from overtone import precision as precisions
from overtone import settings, storage
from overtone.data.images import Pixels, to_pixels
from overtone.data.open import public_name
from overtone.denoisers.guidance import GuidanceSettings
from overtone.denoisers.kept import KeptDenoiser
from overtone.denoisers.tiled import TiledDenoiser
from overtone.errors import OvertoneError
from overtone.networks.configs.network import NetworkConfig
from overtone.networks.network import load_network
from overtone.networks.vae import FOLDER as VAE_FOLDER
from overtone.networks.vae import VAE
from overtone.pipelines.account import account_of
from overtone.pipelines.asked import denoiser_for, guidance_for, sampler_for, start_for
from overtone.pipelines.batches import Beginning, SampleBatch
from overtone.pipelines.budgets import settled
from overtone.pipelines.card import CARD_FILE, SAMPLES_FILE, Card, write_card
from overtone.pipelines.edit import edited, upscaled
from overtone.pipelines.evaluations import request_within
from overtone.pipelines.index import INDEX_FILE, NETWORK_FOLDER, PipelineIndex, read_index
from overtone.pipelines.parts import Parts
from overtone.pipelines.pictures import to_pil
from overtone.pipelines.request import WITHOUT, Request, asking, labels_of
from overtone.pipelines.stages import FirstStage, PipelineStage, stage_of
from overtone.pipelines.starts import FIRST_FOLDER, Start
from overtone.processes.vp_frame import to_vp
from overtone.samplers.loop import SamplingLoop, Step
from overtone.sizes import sides

FILES = (CARD_FILE, SAMPLES_FILE, INDEX_FILE, NETWORK_FOLDER, VAE_FOLDER, FIRST_FOLDER)


class Pipeline(Parts):
    """Images of a model, of pixels or, with a `vae`, of latents.

        pipe = load_pipeline("runs/digits/checkpoints/000150016")
        images = pipe(seeds=range(16), class_labels="seven", guidance_scale=1.5, steps=18)

    What may be asked for is a `Request`. An image depends on its own seed, its class and the
    settings (`made_with`). Across batch sizes it is the same up to rounding.

    Arguments:
        network: an `overtone.networks.Network`; `Experts` for several; or a network of
            trajectories, which needs an operator's preconditioning and sampler.
        sampler, preconditioning, process, guidance: by default EDM's sampler and preconditioning,
            white noise and no guidance.
        start: noise, or for a process that ends in images a `RelayStart`.
        vae, image_resolution: what decodes latents, and the height and width of its images.
        class_names, data, license: a name for each class, the name of the training data, and the
            licence of the weights as the Hub names it, like "apache-2.0".
        training: what is known of the training. A "label dropout" of 0 says that the model never
            saw the null class, and can't be guided by itself.
        budgets: samplers fitted to the model, each for a number of function evaluations.
        precision: "auto", "bf16" or "fp32".

    Raises `OvertoneError` for parts that do not belong together.
    """

    canvas: Any = None
    """An image that is larger than the network's, of which it makes tiles (`upscale.Canvas`)."""

    @asking(Request)
    def __call__(self, request: Request) -> Any:
        """A Pillow image for each seed; with `return_trajectory` a list of all states for each."""
        if not request.return_trajectory:
            return [to_pil(image) for batch in self._stream(request) for image in batch.images]
        frames: list[list[Image.Image]] = []
        for part in self._parts(request):
            states = self._trajectory(part)
            with precisions.autocast(self.precision, self.device):  # the VAE, as in `stream`
                rows = self.pixels(states.flatten(0, 1)).cpu().unflatten(0, states.shape[:2])
            rows[:, -1] = self.start.finished(rows[:, -1], part.seeds)
            frames += [[to_pil(image) for image in row] for row in rows]
        return frames

    @asking(Request, without=("return_trajectory",))
    def stream(self, request: Request) -> Iterator[SampleBatch]:
        """As a call, in batches of uint8 tensors, so that memory is constant."""
        return self._stream(request)

    def _stream(self, request: Request) -> Iterator[SampleBatch]:
        for part in self._parts(request):
            # One context around all steps: autocast then converts each weight only once.
            with precisions.autocast(self.precision, self.device):
                for step in self._begin(part).steps:
                    x = step.x
                finite, unrounded = torch.isfinite(x).all(), self.decoded(x)
            pixels = self.start.finished(to_pixels(unrounded).cpu(), part.seeds)
            if not finite:
                raise OvertoneError(
                    "the model made images that are not finite: its weights are damaged, or the"
                    " guidance scale or the precision is not for it."
                )
            labels: Any = part.class_labels
            yield SampleBatch(list(part.seeds), labels, pixels, unrounded)

    def _parts(self, request: Request) -> Iterator[Request]:
        """The request batch by batch, with labels."""
        labels, size = self.labels(request), request.batch_size
        for at in range(0, len(request.seeds), size):
            part = slice(at, at + size)
            yield request.part(part, None if labels is None else labels[part])

    @asking(Request, without=tuple(WITHOUT))
    def path(self, request: Request) -> Iterator[Step]:
        """Every step from the start to the image, for one batch; the last step's x is in [-1, 1],
        or a latent, which `pixels` makes images of."""
        return self._begin(request).steps

    @asking(Request, without=tuple(WITHOUT))
    def trajectory(self, request: Request) -> Float[Tensor, "batch times channels height width"]:
        """The states after every step of one batch, an operator's at every time, in the
        variance-preserving frame; the start is left out, the image is the last."""
        return self._trajectory(request)

    def _trajectory(self, request: Request) -> Tensor:
        if not len(request.seeds):
            raise OvertoneError("there are no seeds, and so no trajectories.")
        with precisions.autocast(self.precision, self.device):
            steps = list(self._begin(request, whole=True).steps)
        return torch.stack([to_vp(step.x, step.sigma) for step in steps], dim=1)

    @asking(Request, without=tuple(WITHOUT))
    def begin(self, request: Request) -> Beginning:
        """Where sampling begins, and the steps that lead on, each taken when it is asked for."""
        return self._begin(request)

    def _begin(self, request: Request, *, whole: bool = False) -> Beginning:
        seeds, labels = request.seeds, self.labels(request)
        sampler = self.sampler_of(request)
        if whole and sampler.is_operator:
            sampler = replace(sampler, whole=True)  # type: ignore[type-var]
        denoiser = self.denoiser_of(request)
        try:
            own = self.start_of(request)
            source = own.source(seeds, self.resolution)
            begin, sampler = own.begun(sampler)
        except ValueError as error:
            raise OvertoneError(f"{error}.") from None
        self.check_sampler(sampler)
        config, canvas = self.network.config, self.canvas
        size = sides(config.resolution)
        if canvas is not None:
            denoiser = TiledDenoiser(denoiser, size, canvas.overlap, canvas.unit, canvas.at_a_time)
            size = canvas.height, canvas.width
        shape = (len(seeds), config.channels, *size)
        like = torch.empty(shape, device=self.device)
        sigma = sampler.sigma_start
        start = begin(like, self.process, sigma, seeds, labels, source)
        if (known := begin.known(like, seeds)) is not None:
            denoiser = KeptDenoiser(denoiser, *known)
        labels = None if labels is None else labels.to(self.device)
        path = sampler.path(denoiser, self.process, start, source, labels)
        return Beginning(start, begin.level or sigma, labels, self._taken(path))

    def _taken(self, path: Iterator[Step]) -> Iterator[Step]:
        taken = 0
        while True:  # neither context may stay on while the caller has the step
            with torch.no_grad(), precisions.autocast(self.precision, self.device):
                step = next(path, None)
            if step is None:
                break
            taken += 1
            yield step
        if not taken:
            raise OvertoneError("the sampler took no step: ask for one or more.")

    def labels(self, request: Request) -> Int[Tensor, " batch"] | None:
        """The class of each image asked for, on the host, checked."""
        asked: Any = request.class_labels
        if asked is None and self.num_classes:
            asked = self.start.labels(request.seeds, self.num_classes, self.class_names)
        return labels_of(asked, request.seeds, self.num_classes, self.class_names)

    def settled(self, request: Request) -> Request:
        """The request with a sampler in the place of its `evaluations` or `tolerance`: the one that
        was fitted for it (`budgets`), or the model's own with fewer steps; a message says so."""
        return settled(self, request)

    def within(self, request: Request, evaluations: float) -> Request:
        """The request with as many steps as this number of function evaluations allows."""
        return request_within(self, request, evaluations)

    def sampler_of(self, request: Request) -> SamplingLoop:
        """The sampler as a request wants it."""
        return sampler_for(self, self.settled(request))

    def start_of(self, request: Request) -> Start:
        """The start as a request wants it."""
        return start_for(self, self.settled(request))

    def guidance_of(self, request: Request) -> GuidanceSettings:
        """Guidance as a request wants it."""
        return guidance_for(self, request)

    def denoiser_of(self, request: Request) -> Any:
        """The denoiser under the guidance that a request wants."""
        return denoiser_for(self, request)

    def pixels(self, x: Tensor) -> Pixels:
        """Images in [-1, 1], or latents decoded, as uint8 where they are."""
        return to_pixels(self.decoded(x))

    def decoded(self, x: Tensor) -> Float[Tensor, "batch channels height width"]:
        """Images in [-1, 1] as they are, or latents decoded."""
        if self.image_resolution is None:
            return x
        if self.vae is None:
            raise OvertoneError(
                "this model makes latents, and no VAE was saved with it to decode them: set"
                " pipe.vae to one, or pass --vae (a directory, or a repository of the Hub)."
            )
        with torch.no_grad():
            return self.vae.decode(x).float()

    def upscale(
        self,
        images: Tensor | Image.Image | Sequence[Image.Image],
        class_labels: Any = None,
        seeds: Sequence[int] | None = None,
        **asked: Any,
    ) -> list[Image.Image]:
        """Images of a lower resolution, continued by a relay's second stage: one for each.

        Arguments:
            images: (batch, channels, height, width), uint8 or in [-1, 1]; or a picture, or several
                of one size, read as training images are.
            class_labels: as for a call. A conditional model has to be told.
            seeds: of the noise; 0, 1, ... where left out.
            asked: whatever else a `Request` takes.

        Raises `OvertoneError` for a model that begins with noise, and for images of another size
        than 1 / `process.upscale` of the model's.
        """
        return upscaled(self, images, class_labels, seeds, **asked)

    def edit(
        self,
        images: Tensor | Image.Image | Sequence[Image.Image],
        strength: float = 0.5,
        mask: Any = None,
        class_labels: Any = None,
        seeds: Sequence[int] | None = None,
        resamples: int | None = None,
        **asked: Any,
    ) -> list[Image.Image]:
        """Pictures of the model's size changed by it: one for each, or for each seed.

        Arguments:
            strength: the share of the sampler's steps that are taken, in [0, 1]: at 0 the picture
                comes back as it is, at 1 nothing of it is left but what the mask keeps.
            mask: true or white where the picture is kept, (height, width) or one for each.
            resamples: how many times each step is taken under a mask (`ImageStart`); 1 is
                replacement. 4 if left out, or 1 where the sampler or the process can't go back.
            images, class_labels, seeds, asked: as for `upscale`.

        Raises `OvertoneError` for what does not fit, and for a model that can't begin there.
        """
        return edited(self, images, strength, mask, class_labels, seeds, resamples, **asked)

    def made_with(self, request: Request | None = None) -> dict[str, Any]:
        """All that an image depends on, its seed and its class aside, as JSON: each part's settings
        as a request uses them, and digests of the weights."""
        return account_of(self, request)

    def save_pretrained(
        self, folder: str | Path, dtype: Any = None, card: Card | None = None
    ) -> None:
        """Write README.md, pipeline.json, network/ and, where there is one, vae/ or first/ into
        `folder`, which appears whole or not at all.

        `dtype`, "float16" or "bfloat16" or torch's own, halves the files of weights. They are read
        as float32. Where rounding changes them, the samplers fitted to them (`budgets`) are left
        out. `card` holds scores and samples that the model card is to show.
        """
        with storage.new_directory(Path(folder), known=FILES) as temporary:
            self.write_into(temporary, dtype, card)

    def write_into(self, folder: Path, dtype: Any = None, card: Card | None = None) -> None:
        """The files of `save_pretrained`, into a directory that exists."""
        from overtone import __version__

        data = public_name(self.data)
        if not self.sampler.kind:
            raise OvertoneError(
                "a pipeline is saved with a sampler of Overtone's own: set pipe.sampler to a"
                " Sampler, and a diffusers scheduler again after loading."
            )
        exact = self.is_exact_in(dtype)
        if not exact and self.budgets:
            print(
                "the samplers that were fitted to the model are left out: weights in half precision"
                " are other weights, to which overtone fit fits others",
                file=sys.stderr,
            )
        index = PipelineIndex(
            network=self.network.config.kind,
            preconditioning=self.preconditioning,
            process=self.process,
            sampler=self.sampler,
            guidance=self.guidance,
            start=settings.dump(self.start),
            image_resolution=self.image_resolution,
            class_names=self.class_names,
            budgets=self.budgets if exact else (),
            data=data,
            training=self.training,
            license=self.license,
            overtone=__version__,
        )
        storage.write_json(folder / INDEX_FILE, settings.dump(index))
        write_card(self, folder, data, dtype, card or Card())
        self.denoiser.recall()
        (folder / NETWORK_FOLDER).mkdir()
        self.network.write_into(folder / NETWORK_FOLDER, dtype)
        if self.vae is not None:
            (folder / VAE_FOLDER).mkdir()
            self.vae.write_into(folder / VAE_FOLDER, dtype)
        self.start.write_into(folder, dtype)

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None) -> Self:
        """The pipeline saved in a directory or in a repository of the Hub."""
        folder = storage.locate(name, revision)
        index = read_index(folder)
        vae = folder / VAE_FOLDER
        family: Any = Start
        start = settings.load(family, index.start, str(folder / INDEX_FILE))
        NetworkConfig.family.find(index.network)
        network = load_network(folder / NETWORK_FOLDER)
        if network.config.kind != index.network:
            raise OvertoneError(
                f"{folder}: {INDEX_FILE} names a {index.network}, and {NETWORK_FOLDER}/ holds a"
                f" {network.config.kind}."
            )
        return cls(
            network,
            index.sampler,
            preconditioning=index.preconditioning,
            process=index.process,
            guidance=index.guidance,
            start=start.with_files(folder, cls.from_pretrained),
            vae=VAE.from_pretrained(vae) if vae.is_dir() else None,
            image_resolution=index.image_resolution,
            class_names=index.class_names,
            budgets=index.budgets,
            data=index.data,
            training=index.training,
            license=index.license,
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        dtype: Any = None,
        card: Card | None = None,
    ) -> str:
        """Upload to the Hub what `save_pretrained` writes; returns the URL of the commit."""
        with tempfile.TemporaryDirectory() as temporary:
            self.save_pretrained(Path(temporary) / "pipeline", dtype, card)
            made = Path(temporary) / "pipeline"
            return storage.push(made, repo_id, replaced=FILES, private=private, token=token)


@stage_of.register
def _(first: Pipeline) -> FirstStage:
    return PipelineStage(first)
