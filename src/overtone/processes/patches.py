"""Operations on the patches of an image, relay diffusion's: the DCT of each, block noise.

Teng et al. 2024 (arXiv 2309.03350), section 3.2. All are diagonal in s x s patches: no FFT, and one
pass over memory.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from overtone.precision import exact, widest

Images = Float[Tensor, "batch channels height width"]


@runtime_checkable
class Blurring(Protocol):
    """A process whose mean is a product with one matrix a patch."""

    def blur(self, sigma: float) -> Any: ...


def kept_per_axis(blur: Tensor, size: int) -> Float[Tensor, "*batch size"]:
    """exp(-pi^2 i^2 tau / s^2), i = 0 ... s - 1, tau = blur^2 / 2: what one axis has of
    e^-(lambda tau)."""
    i = torch.arange(size, dtype=blur.dtype, device=blur.device)
    return torch.exp(-((math.pi * i / size) ** 2) * blur[..., None] ** 2 / 2)


def blur_matrix(
    k: Float[Tensor, "*batch size"], min_scale: float
) -> Float[Tensor, "*batch pixels_out pixels_in"]:
    """V D V^T of a patch's s^2 pixels, row by row, from `kept_per_axis`."""
    size = k.shape[-1]
    dct = dct_matrix(size, k.device)
    # e^-lambda is a product of one factor an axis, and so are its matrices.
    axis = dct.T @ (k[..., None] * dct)
    both = torch.einsum("...ik,...jl->...ijkl", axis, axis).flatten(-4, -3).flatten(-2)
    one = torch.eye(size**2, dtype=k.dtype, device=k.device)
    return (1 - min_scale) * both + min_scale * one


@lru_cache(maxsize=1024)  # a grid's steps are the same for every batch
def reversing_matrix(
    process: Blurring,
    sigma: float,
    sigma_next: float,
    gamma: float,
    dtype: torch.dtype,
    device: torch.device,
) -> Float[Tensor, "pixels pixels"]:
    """Both means of a step are products with one matrix a patch: so is their difference."""
    with torch.inference_mode(False):  # kept for callers of any mode
        return _moved(process.blur(sigma_next) - gamma * process.blur(sigma), dtype, device)


def dct_matrix(size: int, device: torch.device | None = None) -> Float[Tensor, "size size"]:
    """The orthonormal DCT-II of `size` points, one frequency a row, float64:

    V^T[k, n] = sqrt((1 + [k > 0]) / size) cos(pi k (2 n + 1) / (2 size))
    """
    n = torch.arange(size, dtype=widest(device or "cpu"), device=device)
    matrix = torch.cos(math.pi / (2 * size) * n[:, None] * (2 * n + 1)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def patch_dct(x: Images, size: int) -> Images:
    """The DCT-II of each `size` x `size` patch, its coefficients where its pixels were."""
    axis = dct_matrix(size)
    return per_patch(x, torch.kron(axis, axis), size)


def patch_idct(u: Images, size: int) -> Images:
    """The inverse of `patch_dct`."""
    axis = dct_matrix(size).T.contiguous()
    return per_patch(u, torch.kron(axis, axis), size)


def block_noise(white: Images, size: int) -> Images:
    """Sums over `size` x `size` pixels; the edges meet:

        Block[s](e)_(y, x) = 1/s sum_{i, j < s} e_(y - i, x - j)

    Of white noise it has unit variance, and the covariance of values dy and dx apart (around the
    edges, the shorter way) is max(0, s - dy) max(0, s - dx) / s^2.
    """
    if size > min(white.shape[2:]):
        raise ValueError(
            f"blocks of {size} pixels don't fit into {white.shape[2]} x {white.shape[3]} pixels"
        )
    sums = F.pad(white, (size - 1, 0, size - 1, 0), mode="circular")
    for dim in (2, 3):
        sums = _running_sum(sums, size, dim)
    return sums.mul_(1 / size) if size > 1 else white


def _running_sum(x: Tensor, size: int, dim: int) -> Tensor:
    """Sums of `size` neighbours along one axis, by doubling: log2(size) additions, not size."""
    length = x.shape[dim] - size + 1
    total, offset = None, 0
    for bit in range(size.bit_length()):
        width = 1 << bit  # x holds sums of so many neighbours
        if size & width:
            part = x.narrow(dim, offset, length)
            total = part if total is None else total + part
            offset += width
        if size >> bit + 1:
            x = x.narrow(dim, width, x.shape[dim] - width) + x.narrow(dim, 0, x.shape[dim] - width)
    assert total is not None
    return total


def per_patch(x: Images, matrices: Float[Tensor, "*batch out in"], size: int) -> Images:
    """The pixels of each `size` x `size` patch, row by row, times a matrix, or one an image.

    Raises `ValueError` for images whose sides are no multiples of the patch's.
    """
    height, width = x.shape[2:]
    if height % size or width % size:
        raise ValueError(f"{height} x {width} pixels do not divide into patches of {size} x {size}")
    matrices = _moved(matrices, x.dtype, x.device).reshape(-1, size, size, size, size)
    patches = x.reshape(len(matrices), -1, size, width // size, size)
    # Under autocast these products would be rounded by more than the noise of low levels.
    with exact(x.device):
        return torch.einsum("bijkl,bnkwl->bniwj", matrices, patches).reshape(x.shape)


def _moved(matrices: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    matrices = matrices.to(dtype)
    if device.type == "cuda" and not matrices.is_cuda:  # from pinned memory: nothing waits
        return matrices.pin_memory().to(device, non_blocking=True)
    return matrices.to(device)
