"""MEME: experts of different shapes for intervals of time (Lee et al. 2023, arXiv 2306.04990)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from overtone.errors import OvertoneError
from overtone.networks import Experts
from overtone.pipelines.base import ImagePipeline


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
    def merged(cls, pipelines: Sequence[ImagePipeline], boundaries: Sequence[float]) -> Self:
        """One pipeline of several, that nearest the clean image first, with its settings.

        Raises `OvertoneError` where they differ in what an image or a class is.
        """
        if not pipelines:
            raise OvertoneError("there are no experts to merge.")
        first = pipelines[0]
        for number, pipe in enumerate(pipelines, 1):
            for what, own, other in (
                ("denoiser", pipe.denoiser_settings, first.denoiser_settings),
                ("process", pipe.process, first.process),
                ("classes", pipe.class_names, first.class_names),
                ("image size", pipe.resolution, first.resolution),
                ("VAE", pipe.vae and pipe.vae.digest, first.vae and first.vae.digest),
            ):
                if own != other:
                    raise OvertoneError(
                        f"experts 1 and {number} do not belong together: their {what} differs,"
                        f" {other} and {own}."
                    )
        seen = [pipe.training.get("images seen", 0) for pipe in pipelines]
        return cls(
            Experts([pipe.network for pipe in pipelines], boundaries),
            first.sampler,
            denoiser=first.denoiser_settings,
            process=first.process,
            guidance=first.guidance,
            vae=first.vae,
            image_resolution=first.image_resolution,
            class_names=first.class_names,
            data=first.data,
            training=first.training | {"images seen": sum(map(int, seen))},
            precision=first.precision,
        )
