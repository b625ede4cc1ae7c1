"""Relay diffusion's forward process: blur within patches, white noise and block noise.

Teng et al. 2024 (arXiv 2309.03350). Each patch of s x s pixels, s the upscale factor, fades towards
its mean as the noise grows, so that at the highest level an image looks like one of lower
resolution whose pixels were repeated: this process can be inverted from where a first stage ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from overtone.processes.gaussian import Images, Process
from overtone.processes.noise import NoiseSource
from overtone.processes.schedule import QuantileSchedule


@dataclass(frozen=True)
class RelayProcess(Process):
    """mean(x_0, sigma) = V D V^T x_0, noise = (e + alpha Block[s](e')) / sqrt(1 + alpha^2).

    V^T is the DCT of each s x s patch, s = `patch`, and D keeps of coefficient (i, j)

        D = exp(-lambda tau) (1 - m) + m            m = min_scale
        lambda = pi^2 (i^2 + j^2) / s^2
        tau = sigma_B^2 / 2,   sigma_B = blur_sigma_max sin^2(pi t / 2),   t = schedule.t(sigma)

    which is the paper's section 3.2. alpha is `block_scale`; the published code leaves the noise's
    normaliser out, so its checkpoints need `normalised` off. Both sides of an image must be
    multiples of the patch; raises `ValueError` for others.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    patch: int = 4
    """side of the patches in pixels: the upscale factor"""
    blur_sigma_max: float = 3.0
    """strength of the blur at t = 1"""
    min_scale: float = 0.001
    """the share of every coefficient that no blur takes away"""
    block_scale: float = 0.15
    """block noise beside white noise of 1"""
    normalised: bool = True
    """divide the noise by its standard deviation, sqrt(1 + block_scale^2)"""
    schedule: QuantileSchedule = field(default_factory=lambda: QuantileSchedule(prob_length=0.93))
    """tells the time of a noise level, which the blur depends on"""
    kind: Literal["RelayProcess"] = "RelayProcess"

    def __post_init__(self) -> None:
        if self.patch < 1:
            raise ValueError(f"a patch is at least 1 pixel wide, not {self.patch}")
        if min(self.blur_sigma_max, self.block_scale) < 0 or not 0 <= self.min_scale <= 1:
            raise ValueError(
                "blur_sigma_max and block_scale are at least 0, min_scale is in [0, 1], not"
                f" {self.blur_sigma_max}, {self.block_scale}, {self.min_scale}"
            )

    def mean(self, x_0: Images, sigma: float | Float[Tensor, " batch"]) -> Images:
        return per_patch(x_0, self.blur(sigma), self.patch)

    def noise(self, like: Images, source: NoiseSource) -> Images:
        """White noise is drawn first, then, unless `block_scale` is 0, what the blocks average."""
        noise = source.normal(like)
        if not self.block_scale:
            return noise
        noise.add_(block_noise(source.normal(like), self.patch), alpha=self.block_scale)
        return noise.mul_((1 + self.block_scale**2) ** -0.5) if self.normalised else noise

    def reverse(
        self, x: Images, x_0: Images, sigma: float, sigma_next: float, gamma: float
    ) -> Images:
        matrix = _reversing(self, sigma, sigma_next, gamma, x.dtype, x.device)
        return per_patch(x_0, matrix, self.patch).add_(x, alpha=gamma)

    def kept(self, sigma: float | Float[Tensor, " batch"]) -> Float[Tensor, "*batch patch patch"]:
        """D: what is kept of each coefficient at a noise level, float64."""
        k = self._decay(sigma)
        return (1 - self.min_scale) * k[..., :, None] * k[..., None, :] + self.min_scale

    def blur(
        self, sigma: float | Float[Tensor, " batch"]
    ) -> Float[Tensor, "*batch pixels_out pixels_in"]:
        """V D V^T of a patch's s^2 pixels, row by row, float64 on sigma's device."""
        k = self._decay(sigma)
        dct = dct_matrix(self.patch, k.device)
        # e^-lambda is a product of one factor an axis, and so are its matrices.
        axis = dct.T @ (k[..., None] * dct)
        both = torch.einsum("...ik,...jl->...ijkl", axis, axis).flatten(-4, -3).flatten(-2)
        one = torch.eye(self.patch**2, dtype=k.dtype, device=k.device)
        return (1 - self.min_scale) * both + self.min_scale * one

    def _decay(self, sigma: float | Float[Tensor, " batch"]) -> Float[Tensor, "*batch patch"]:
        """exp(-pi^2 i^2 tau / s^2), i = 0 ... s - 1: one axis's share of e^-(lambda tau)."""
        blur = self.blur_sigma_max * torch.sin(math.pi / 2 * self.schedule.t(sigma)) ** 2
        i = torch.arange(self.patch, dtype=torch.float64, device=blur.device)
        return torch.exp(-((math.pi * i / self.patch) ** 2) * blur[..., None] ** 2 / 2)


@lru_cache(maxsize=1024)  # a grid's steps are the same for every batch
def _reversing(
    process: RelayProcess,
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
    n = torch.arange(size, dtype=torch.float64, device=device)
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
    with torch.autocast(x.device.type, enabled=False):
        return torch.einsum("bijkl,bnkwl->bniwj", matrices, patches).reshape(x.shape)


def _moved(matrices: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    matrices = matrices.to(dtype)
    if device.type == "cuda" and not matrices.is_cuda:  # from pinned memory: nothing waits
        return matrices.pin_memory().to(device, non_blocking=True)
    return matrices.to(device)
