"""DiffiT in image space."""

from __future__ import annotations

from overtone.networks import DiffiTUNet
from overtone.pipelines.base import ImagePipeline


class DiffiTPipeline(ImagePipeline):
    """Images from a `DiffiTUNet` in EDM's preconditioning, by EDM's sampler.

        pipe = DiffiTPipeline.from_pretrained("models/digits")
        images = pipe(seeds=range(16), class_labels=3, guidance_scale=1.5, steps=18)

    Hatamizadeh et al. 2023, arXiv 2312.02139.
    """

    networks = (DiffiTUNet,)
    network: DiffiTUNet
