"""How much of an image is left in noise, frequency by frequency."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from overtone.data.images import Pixels, to_unit
from overtone.processes.patches import dct_matrix
from overtone.processes.relay import RelayProcess


class SNR(NamedTuple):
    """Signal-to-noise ratios by frequency band at noise level 1; at sigma, divide by sigma^2.

    Band b holds the coefficients (i, j) of the whole image's DCT with b <= sqrt(i^2 + j^2) < b + 1;
    there are as many as an axis has frequencies.
    """

    low: Float[Tensor, " bands"]
    """The SNR of low-resolution images in white noise, enlarged together with it by repeating
    pixels."""
    white: Float[Tensor, " bands"]
    """The SNR of high-resolution images in white noise."""
    block: Float[Tensor, " bands"]
    """The SNR of high-resolution images in block noise."""
    mixture: Float[Tensor, " bands"]
    """The SNR of high-resolution images in the noise of a `RelayProcess`, which mixes white noise
    and block noise."""


def signal_to_noise(
    batches: Iterable[Pixels], factor: int, block_scale: float = RelayProcess.block_scale
) -> SNR:
    """The ratios for square uint8 images, `factor` times as large as the low-resolution ones.
    `block_scale` is that of the mixture, alpha in (e + alpha Block(e')) / sqrt(1 + alpha^2).

    The noise's power is exact: of independent values of unit variance a linear map A of one axis
    leaves sum_j (V^T A)_kj^2 in frequency k, V^T the DCT, and the two axes multiply. Relay
    diffusion's figure 2 (arXiv 2309.03350). Raises `ValueError` for images that are not square
    multiples of the factor, and for none.
    """
    count, fine, coarse = 0, torch.zeros(()), torch.zeros(())
    for pixels in batches:
        height, size = pixels.shape[-2:]
        if height != size or size % factor:
            raise ValueError(f"{height} x {size} pixels are no square that divides by {factor}")
        images = to_unit(pixels)
        low = avg_pool2d(images, factor)
        repeated = low.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        fine, coarse = fine + _power(images), coarse + _power(repeated)
        count += len(images)
    if not count:
        raise ValueError("there are no images to compute the ratio of")
    dct, one = dct_matrix(size), torch.eye(size, dtype=torch.float64)
    repeat = torch.eye(size // factor, dtype=torch.float64).repeat_interleave(factor, 0)
    # One axis of block noise: sums of `factor` neighbours, circular, of unit variance.
    box = sum(one.roll(i, 0) for i in range(factor)) / factor**0.5
    signals = coarse / count, fine / count
    noises = []
    for axis in (repeat, one, box):
        power = (dct @ axis).square().sum(1)
        noises.append(torch.outer(power, power))
    low, white, block = noises
    # Its two parts are independent: their powers add up.
    mixture = (white + block_scale**2 * block) / (1 + block_scale**2)
    pairs = (signals[0], low), *((signals[1], noise) for noise in (white, block, mixture))
    return SNR(*(_bands(signal) / _bands(noise) for signal, noise in pairs))


def _power(images: Tensor) -> Float[Tensor, "size size"]:
    """Power of each coefficient of the DCT, averaged over channels, added up over images."""
    dct = dct_matrix(images.shape[-1]).to(images)
    return (dct @ images @ dct.T).square().mean(1).sum(0).double()


def _bands(power: Float[Tensor, "size size"]) -> Float[Tensor, " size"]:
    """The power in each band."""
    i = torch.arange(len(power))
    band = (i[:, None] ** 2 + i**2).double().sqrt().floor().long()
    kept = band < len(power)
    return torch.zeros(len(power), dtype=power.dtype).index_add_(0, band[kept], power[kept])
