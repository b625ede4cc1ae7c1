"""DiffiT, in image space and in latent space (Hatamizadeh et al. 2023, arXiv 2312.02139)."""

from __future__ import annotations

from overtone.denoisers import ADM_DIFFUSION
from overtone.networks import DiffiTTransformer, DiffiTUNet
from overtone.pipelines.base import ImagePipeline
from overtone.samplers import AncestralSampler


class DiffiTPipeline(ImagePipeline):
    """Images from a `DiffiTUNet` in EDM's preconditioning, by EDM's sampler.

    pipe = DiffiTPipeline.from_pretrained("models/digits")
    images = pipe(seeds=range(16), class_labels=3, guidance_scale=1.5, steps=18)
    """

    networks = (DiffiTUNet,)
    network: DiffiTUNet


class LatentDiffiTPipeline(ImagePipeline):
    """Images from a `DiffiTTransformer` on the latents of a VAE, by default in ADM's diffusion, by
    DDPM's sampler.

        pipe = LatentDiffiTPipeline.from_pretrained("runs/latent/checkpoints/000120000")
        images = pipe(seeds=range(16), class_labels=3)      # with the guidance saved with it
        images = pipe(seeds=range(16), class_labels=3, guidance_scale=2.0, steps=50)

    Its `guidance` may be the published one: the first three channels, a power-cosine of the time.
    """

    networks = (DiffiTTransformer,)
    network: DiffiTTransformer
    default_denoiser = ADM_DIFFUSION
    default_sampler = AncestralSampler()
