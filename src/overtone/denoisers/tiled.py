"""A denoiser of images that are larger than its network was trained on, asked part by part."""

from __future__ import annotations

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from overtone.denoisers.denoiser import Denoiser, Estimate, Images, Labels, Sigma


def starts_of(length: int, tile: int, overlap: int, unit: int = 1) -> list[int]:
    """Where tiles begin that cover a length: the fewest that overlap by `overlap` or more, evenly
    spread, at multiples of `unit`, which length and tile are.

    Raises `ValueError` for a length below a tile, and for an overlap that leaves no way forward.
    """
    if length < tile:
        raise ValueError(f"a length of {length} is less than a tile of {tile}")
    if not 0 <= overlap <= tile - unit:
        raise ValueError(f"tiles of {tile} overlap by 0 to {tile - unit}, not by {overlap}")
    steps, room = (tile - overlap) // unit, (length - tile) // unit
    count = -(-room // steps)
    return [round(k * room / max(count, 1)) * unit for k in range(count + 1)]


def window_of(tile: int, overlap: int) -> Float[Tensor, " tile"]:
    """The weight of each place in a tile: 1, and within the overlap a line down to the edge."""
    place = torch.arange(tile, dtype=torch.float32)
    edge = torch.minimum(place, tile - 1 - place) + 1
    return (edge / (overlap + 1)).clamp(max=1.0)


class TiledDenoiser(Denoiser):
    """The estimate of a large image, from those of overlapping tiles:

        x_0 = sum_k w_k D(x_k) / sum_k w_k

    x_k the part of x in tile k, w_k its window. All tiles see one x, whose noise they share, so
    that where they overlap they agree on what is there: the parts of the image meet without a seam
    (MultiDiffusion, Bar-Tal et al. 2023, arXiv 2302.08113).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        tile: tuple[int, int],
        overlap: int,
        unit: int = 1,
        at_a_time: int = 16,
    ) -> None:
        """`tile` is the height and width that the denoiser knows, `unit` what tiles are placed at
        multiples of, and `at_a_time` the number of tiles in a batch."""
        super().__init__()
        self.denoiser, self.tile, self.overlap = denoiser, tile, overlap
        self.unit, self.at_a_time = unit, at_a_time
        self.num_classes = denoiser.num_classes

    def forward(self, x: Images, sigma: Sigma, class_labels: Labels | None = None) -> Estimate:
        places = list(
            product(
                starts_of(x.shape[2], self.tile[0], self.overlap, self.unit),
                starts_of(x.shape[3], self.tile[1], self.overlap, self.unit),
            )
        )
        rows, columns = (window_of(side, self.overlap).to(x.device) for side in self.tile)
        window = rows[:, None] * columns
        total, weight = torch.zeros_like(x, dtype=torch.float32), x.new_zeros(x.shape[2:])
        for at in range(0, len(places), self.at_a_time):
            part = places[at : at + self.at_a_time]
            tiles = torch.cat([self._cut(x, place) for place in part])
            labels = None if class_labels is None else class_labels.repeat(len(part))
            level = sigma.repeat(len(part)) if isinstance(sigma, Tensor) and sigma.dim() else sigma
            made = self.denoiser(tiles, level, labels).x_0.float()
            for place, estimate in zip(part, made.split(len(x)), strict=True):
                self._cut(total, place).add_(estimate * window)
                self._cut(weight, place).add_(window)
        return Estimate((total / weight).to(x.dtype))

    def _cut(self, x: Tensor, place: tuple[int, int]) -> Tensor:
        """The tile at a place, as a view."""
        (top, left), (height, width) = place, self.tile
        return x[..., top : top + height, left : left + width]
