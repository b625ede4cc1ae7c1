"""Features of a network that was never trained: a last resort, which says so.

Random convolutions tell textures and colours apart, and little of what is in an image. Distances on
them compare with each other, on the same data and with the same seed, and mean less than those of
any trained network; but they need no classes, no download and no training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from overtone import precision
from overtone.data.images import Pixels, to_unit
from overtone.metrics.features import Extractor, Features, by_blocks, place_features
from overtone.networks.network import digest_of

WIDTHS = (16, 32, 64)
"""channels of the levels, each at half of the resolution of the one before"""
BLOCK = 64
"""images at a time"""


class RandomExtractor(Extractor):
    """Levels of a 3x3 convolution and a ReLU, He's uniform initialisation from `seed`; the features
    are the mean and the standard deviation over pixels of each channel of each level."""

    dims = 2 * sum(WIDTHS)

    def __init__(self, channels: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.name = (
            f"random features, seed {seed}: an untrained network, whose distances compare with each"
            " other alone"
        )
        layers, width = torch.nn.ModuleList(), channels
        for out in WIDTHS:
            conv = torch.nn.Conv2d(width, out, 3, padding=1)
            # Uniform numbers are the same bits on every machine; normal ones are rounded as the
            # processor likes, and the digest is of the bits.
            uniform = 2 * torch.rand(conv.weight.shape, generator=generator) - 1
            conv.weight.data = uniform * (6 / (9 * width)) ** 0.5
            assert conv.bias is not None
            conv.bias.data = 0.2 * torch.rand(out, generator=generator) - 0.1
            layers.append(conv)
            width = out
        self.digest = digest_of(layers)
        self.layers = layers.eval().to(precision.default_device())

    def __call__(self, pixels: Pixels) -> Features:
        return by_blocks(self.layers, self._extract, pixels, BLOCK)

    def _extract(self, pixels: Pixels) -> Features:
        x: Tensor = to_unit(pixels)
        found = []
        for number, layer in enumerate(self.layers):
            if number and min(x.shape[2:]) > 1:
                x = F.avg_pool2d(x, 2)
            x = layer(x).relu()
            found += [x.mean(dim=(2, 3)), x.flatten(2).std(dim=2, correction=0)]
        return Features(torch.cat(found, dim=1), None, place_features(x))
