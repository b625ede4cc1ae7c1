"""EDM's augmentation, which does not leak into what the model generates."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from overtone.processes.noise import SeededNoise

CONDITIONS = 9

Images = Float[Tensor, "batch channels height width"]


def augment(
    images: Images, probability: float, source: SeededNoise
) -> tuple[Images, Float[Tensor, "batch 9"]]:
    """Images moved about at random, and the nine numbers that say how: 0 where they were not.

    Each with the probability given, independently,

        horizontal flip (half of all images)    [1 or 0]
        vertical flip (half of those chosen)    [1 or 0]
        scaling by 2^(0.2 w), w ~ N(0, 1)       [w]
        rotation by an angle a ~ U(-pi, pi)     [cos a - 1, sin a]
        stretching by 2^(0.2 w) along an axis,
        and squeezing across it; half the time
        the axis is x, else at a ~ U(-pi, pi)   [w cos a, w sin a]
        moving by w/8 of the image in x and y,
        w ~ N(0, 1)^2                           [w_x, w_y]

    A network that is told the numbers learns the images as they are under the zeros: the
    augmentation of StyleGAN2-ADA made non-leaking (Karras et al. 2022, arXiv 2206.00364,
    appendix F.2), in EDM's order and with its signs: angles turn the picture anticlockwise. Edges
    are reflected. Images are resampled at twice their resolution (EDM filters with wavelets there,
    here it is bicubic and a mean); those that only flip stay exact.

    `images` are in any range; the draws come from `source`, the same number for every image.
    """
    moves = _drawn(probability, source)
    conditions = moves.conditions()
    images = torch.where(_each(moves.flip_x > 0), images.flip(3), images)
    images = torch.where(_each(moves.flip_y > 0), images.flip(2), images)
    warped = conditions[:, 2:].any(dim=1)
    if bool(warped.any()):
        back = moves.back(*images.shape[2:])[warped]
        images = images.clone()
        images[warped] = _warp(images[warped], back)
    return images, conditions


class _Moves(NamedTuple):
    """What is done to each image; 0 where it is not, all (batch,)."""

    flip_x: Tensor
    flip_y: Tensor
    scale: Tensor
    angle: Tensor
    stretch: Tensor
    axis: Tensor
    right: Tensor
    down: Tensor

    def conditions(self) -> Float[Tensor, "batch 9"]:
        """The nine numbers that the network is told."""
        return torch.stack(
            (
                self.flip_x,
                self.flip_y,
                self.scale,
                self.angle.cos() - 1,
                self.angle.sin(),
                self.stretch * self.axis.cos(),
                self.stretch * self.axis.sin(),
                self.right,
                self.down,
            ),
            dim=1,
        ).float()

    def back(self, height: int, width: int) -> Float[Tensor, "batch 2 3"]:
        """From a pixel of the result back to where it comes from, in pixels about the middle."""
        longer = torch.exp2(-0.2 * self.stretch)
        back = (
            _matrix(torch.exp2(-0.2 * self.scale), torch.exp2(-0.2 * self.scale))
            @ _turn(self.angle)
            @ _turn(-self.axis)
            @ _matrix(longer, 1 / longer)
            @ _turn(self.axis)
        )
        shift = torch.stack((self.right * width / 8, self.down * height / 8), dim=1)[:, :, None]
        return torch.cat((back, -back @ shift), dim=2)


def _drawn(probability: float, source: SeededNoise) -> _Moves:
    def chosen() -> Tensor:
        return source.uniform() < probability

    def normal() -> Tensor:
        return torch.special.ndtri(source.uniform())

    def where(condition: Tensor, value: Tensor) -> Tensor:
        return torch.where(condition, value, torch.zeros_like(value))

    flip_x = (source.uniform() < 0.5).double()
    flip_y = where(chosen(), (source.uniform() < 0.5).double())
    scale = where(chosen(), normal())
    angle = where(chosen(), math.pi * (2 * source.uniform() - 1))
    stretched = chosen()
    stretch = where(stretched, normal())
    slanted = source.uniform() < 0.5
    axis = where(stretched & slanted, math.pi * (2 * source.uniform() - 1))
    moved = chosen()
    right, down = where(moved, normal()), where(moved, normal())
    return _Moves(flip_x, flip_y, scale, angle, stretch, axis, right, down)


def _warp(images: Tensor, back: Tensor) -> Tensor:
    """Images at the places `back` (batch, 2, 3) leads to, in pixels about the middle."""
    height, width = images.shape[2:]
    fine = F.interpolate(images, scale_factor=2.0, mode="bicubic")
    # grid_sample counts from -1 to 1 across the image in x and in y.
    unit = torch.tensor([width / 2, height / 2], dtype=back.dtype)
    theta = torch.cat((back[:, :, :2] * unit / unit[:, None], back[:, :, 2:] / unit[:, None]), 2)
    shape = [len(images), images.shape[1], 2 * height, 2 * width]
    grid = F.affine_grid(theta.to(images.dtype), shape, align_corners=False)
    fine = F.grid_sample(fine, grid, padding_mode="reflection", align_corners=False)
    return F.avg_pool2d(fine, 2)


def _each(condition: Tensor) -> Tensor:
    return condition[:, None, None, None]


def _matrix(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack((x, y), dim=1))


def _turn(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((torch.stack((cos, -sin), 1), torch.stack((sin, cos), 1)), 1)
