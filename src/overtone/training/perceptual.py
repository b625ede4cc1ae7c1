"""LPIPS as a training distance (Zhang et al. 2018, arXiv 1801.03924), behind the extra `lpips`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from overtone.errors import OvertoneError

SMALLEST = 32  # pixels that VGG's five levels need


def perceptual_distance(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The distance of pairs of images in [-1, 1], (batch, channels, height, width) -> (batch,), by
    VGG's features.

    Grey images are shown as RGB, small ones enlarged to 32 px. Raises `OvertoneError`, naming the
    extra, where the package or its weights are not there.
    """
    try:
        import lpips
    except ImportError as error:
        raise OvertoneError(
            f"--distance lpips needs a package that is not installed ({error}): in Overtone's"
            " source, pip install -c constraints.txt '.[lpips]'."
        ) from None
    try:
        judge: Any = lpips.LPIPS(net="vgg", verbose=False)
    except Exception as error:  # of the download: urllib's and torch's are many
        raise OvertoneError(f"the weights of LPIPS's VGG can't be loaded ({error}).") from None
    judge = judge.to(device).eval().requires_grad_(False)

    def distance(one: Tensor, other: Tensor) -> Tensor:
        pair = []
        for images in (one, other):
            images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
            if images.shape[2] < SMALLEST:
                images = F.interpolate(images, (SMALLEST, SMALLEST), mode="bilinear")
            pair.append(images)
        return judge(*pair).flatten(1).mean(dim=1).float()

    return distance
