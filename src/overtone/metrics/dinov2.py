"""Features of DINOv2, for FD-DINOv2 (Stein et al. 2023, arXiv 2306.04675).

The class token behind the last norm of a vision transformer that was trained on images without
labels (Oquab et al. 2023, arXiv 2304.07193): 1024 numbers, of ViT-L/14. Images are resized to 224
px, bicubic, and normalised as ImageNet's. The network is transformers' `Dinov2Model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from overtone import precision
from overtone.data.images import Pixels
from overtone.errors import OvertoneError
from overtone.metrics.dinov2_weights import (
    HEAD,
    PATCH,
    RENAMED,
    SIZE,
    Sizes,
    load_weights,
    positions_at,
)
from overtone.metrics.features import Extractor, Features, as_rgb, by_blocks
from overtone.metrics.foreign import library
from overtone.networks.network import digest_of_tensors

REPOSITORY = "facebook/dinov2-large"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""of ImageNet's pixels in [0, 1]"""
BLOCK = 32
"""images at a time"""


class DinoExtractor(Extractor):
    """The class token of DINOv2. Grey images become RGB.

    `weights` is a directory or a repository of transformers', or a file: safetensors with the names
    of transformers' repositories, or a checkpoint of torch.hub's (dinov2_vitl14_pretrain.pth). None
    is the repository of ViT-L/14. Needs the extra `dinov2`.

    Raises `OvertoneError` for what holds other weights.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        # First, so that an extra that is not installed is said before a gigabyte is read.
        config_class, model_class = (
            library("transformers", name, "dinov2", "DINOv2")
            for name in ("Dinov2Config", "Dinov2Model")
        )
        state, sizes = load_weights(weights or REPOSITORY)
        # Of the weights as they are in files: the positions are rounded as the processor likes.
        self.digest = digest_of_tensors(state)
        self.dims = sizes.width
        network = _network(config_class, model_class, state, sizes)
        self.network = network.to(precision.default_device())
        self.name = f"DINOv2, {self.dims} features"

    def __call__(self, pixels: Pixels) -> Features:
        rgb = as_rgb(pixels.cpu(), "DINOv2")
        return by_blocks(self.network, self._extract, rgb, BLOCK, _all_prepared)

    def _extract(self, images: Tensor) -> Features:
        return Features(self.network(images).pooler_output)


def _all_prepared(pixels: Pixels) -> Tensor:
    return torch.stack([_prepared(image) for image in pixels])


def _prepared(image: Tensor) -> Tensor:
    """A uint8 image as the network takes it. Pillow's bicubic filter widens as it makes smaller."""
    array = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
    picture = Image.fromarray(array).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (MEAN, DEVIATION))
    return (values - mean) / deviation


def _network(
    config_class: Any, model_class: Any, state: dict[str, Tensor], own: Sizes
) -> nn.Module:
    """transformers' model with these weights, which it has no say in reading."""
    config = config_class(
        hidden_size=own.width,
        num_hidden_layers=own.depth,
        num_attention_heads=own.width // HEAD,
        mlp_ratio=own.hidden // own.width,
        image_size=SIZE,
        patch_size=PATCH,
        use_mask_token=False,
        layer_norm_eps=1e-6,
    )
    with torch.device("meta"):
        network: nn.Module = model_class(config).eval()
    place = "embeddings.position_embeddings"
    state = {**state, place: positions_at(state[place], SIZE // PATCH)}
    if network.state_dict().keys() != state.keys():  # transformers 5
        for new, old in RENAMED.items():
            state = {name.replace(f".{old}.", f".{new}."): value for name, value in state.items()}
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise OvertoneError(
            f"this version of transformers has another DINOv2 than the one known here ({first}):"
            " in Overtone's source, pip install -c constraints.txt '.[dinov2]'."
        ) from None
    return network.requires_grad_(False)
