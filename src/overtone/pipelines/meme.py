"""MEME: experts of different shapes for intervals of time (Lee et al. 2023, arXiv 2306.04990)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from overtone.errors import OvertoneError
from overtone.networks import Experts
from overtone.pipelines.base import ImagePipeline
from overtone.pipelines.relay import RelayPipeline

OF_ONE = ("expert", "its noise levels", "trained on them")
"""what a pipeline's `training` says of an expert by itself"""


class MEMEPipeline(ImagePipeline):
    """Images from several networks, each asked at its interval of noise levels.

        pipe = MEMEPipeline.from_pretrained("models/meme-digits").to("cuda", resident=1)
        images = pipe(seeds=range(16), class_labels=3)

        pipe = MEMEPipeline.merged([near, middle, far], boundaries=(0.3, 3.0))

    Wherever else a pipeline takes a network it takes `Experts`: a relay's second stage, say.
    """

    networks = (Experts,)
    network: Experts

    @classmethod
    def merged(
        cls, pipelines: Sequence[ImagePipeline], boundaries: Sequence[float]
    ) -> ImagePipeline:
        """One pipeline of several, that nearest the clean image first, with the first one's sampler
        and guidance: a `RelayPipeline` of second stages, else of this class.

        Raises `OvertoneError` where they differ in what an image or a class is.
        """
        if not pipelines:
            raise OvertoneError("there are no experts to merge.")
        first = pipelines[0]
        for number, pipe in enumerate(pipelines, 1):
            for (what, own), (_, other) in zip(_facts(pipe), _facts(first), strict=True):
                if own != other:
                    raise OvertoneError(
                        f"experts 1 and {number} do not belong together: their {what} differ,"
                        f" {other} and {own}."
                    )
        training = {
            name: fact
            for name, fact in first.training.items()
            if name == "label dropout"
            or (name not in OF_ONE and all(p.training.get(name) == fact for p in pipelines))
        }
        seen = [pipe.training.get("images seen") for pipe in pipelines]
        training.pop("images seen", None)
        if None not in seen:
            training["images seen"] = sum(int(images) for images in seen if images is not None)
        try:
            network = Experts([pipe.network for pipe in pipelines], boundaries)
        except ValueError as error:
            raise OvertoneError(f"{error}.") from None
        relay = isinstance(first, RelayPipeline)
        pipe = (RelayPipeline if relay else cls)(
            network,
            first.sampler,
            denoiser=first.denoiser_settings,
            process=first.process,
            guidance=first.guidance,
            vae=first.vae,
            image_resolution=first.image_resolution,
            class_names=first.class_names,
            data=first.data,
            training=training,
            precision=first.precision,
        )
        if isinstance(first, RelayPipeline) and isinstance(pipe, RelayPipeline):
            pipe.first = first.first
        return pipe


def _facts(pipe: ImagePipeline) -> list[tuple[str, Any]]:
    """What experts have to have in common."""
    vae = pipe.vae
    scale = None if vae is None else (vae.digest, vae.scaling_factor, vae.shift_factor)
    return [
        ("kinds", type(pipe) if isinstance(pipe, RelayPipeline) else ImagePipeline),
        ("denoisers", pipe.denoiser_settings),
        ("processes", pipe.process),
        ("classes", pipe.class_names),
        ("null classes", pipe.denoiser.has_null_class),
        ("image sizes", pipe.resolution),
        ("VAEs", scale),
    ]
