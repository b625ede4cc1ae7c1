"""The U: one skeleton for every U-shaped network, which differ in the cells they hang into it.

    stem (3x3) -> each level: [down], cells -> middle -> each level: cells, [up] -> norm, 3x3

Every output of the encoder (the stem's and the transitions' too) is a skip. The decoder has one
cell more a level than the encoder, each on concat(current, skip); transitions keep the width and
take no skip. This is the layout of EDM's and ADM's networks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from overtone.networks.layers import GroupNorm, zero
from overtone.networks.network import Spot
from overtone.sizes import divided, divides, shown, sides


class Place(NamedTuple):
    """Where in the U a cell stands."""

    stage: Literal["encoder", "middle", "decoder"]
    level: int  # 0 is the full resolution
    size: tuple[int, int]  # height and width in pixels, at this level
    number: int  # counted from 0 within the level
    last: bool  # whether no cell of the level follows

    @property
    def resolution(self) -> int:
        """The smaller side, by which settings name a level."""
        return min(self.size)


class Cells(ABC):
    """Makes the parts of a U. Each part is called as `part(x, embedding)` and returns features."""

    @abstractmethod
    def cell(self, in_channels: int, out_channels: int, place: Place) -> nn.Module: ...

    @abstractmethod
    def down(self, channels: int) -> nn.Module: ...

    @abstractmethod
    def up(self, channels: int) -> nn.Module: ...

    def pyramid(self, in_channels: int, out_channels: int) -> nn.Module | None:
        """NCSN++'s second way down, called as `part(x)` on the input itself; None for most."""
        return None


class Level(nn.Module):
    """The cells of one resolution and, before them, the transition that leads there."""

    def __init__(
        self,
        transition: nn.Module | None,
        cells: Sequence[nn.Module],
        pyramid: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.transition: nn.Module | None = transition
        self.pyramid: nn.Module | None = pyramid
        self.cells = nn.ModuleList(cells)


class Encoder(nn.Module):
    """The way down: every feature map on it is an output.

    `widths` and `num_cells` have one entry a level, full resolution first. The resolution halves
    from level to level and must divide accordingly. `patch` > 1 makes the stem a patch embedding,
    whose resolution counts as the full one. `resolution` is pixels a side, or height and
    width. The stem is as wide as the first level if no `stem_width` is given.

    With `Cells.pyramid` the input goes down beside the features, and at each level

        x = pyramid = (transition(x) + part(pyramid)) / sqrt(2)
    """

    def __init__(
        self,
        cells: Cells,
        resolution: int | tuple[int, int],
        in_channels: int,
        widths: Sequence[int],
        num_cells: Sequence[int],
        patch: int = 1,
        stem_width: int | None = None,
    ) -> None:
        super().__init__()
        depth = len(widths)
        if not depth or len(num_cells) != depth:
            raise ValueError(f"{depth} widths, but cells for {len(num_cells)} levels")
        if min(*widths, *num_cells) < 1:
            raise ValueError("every level has at least one channel and one cell")
        if not divides(resolution, patch * 2 ** (depth - 1)):
            halvings = depth - 1 + (patch.bit_length() - 1)
            raise ValueError(f"resolution {shown(resolution)} can't be halved {halvings} times")
        resolution = divided(resolution, patch)
        width, pyramid_width = stem_width or widths[0], in_channels
        if patch > 1:
            self.stem = nn.Conv2d(in_channels, width, patch, stride=patch)
        else:
            self.stem = nn.Conv2d(in_channels, width, 3, padding=1)

        self.skip_widths = [width]
        levels = []
        for level in range(depth):
            down = pyramid = None
            if level:
                down = cells.down(width)
                pyramid = cells.pyramid(pyramid_width, width)
                pyramid_width = width
                self.skip_widths.append(width)
            column = []
            for index in range(num_cells[level]):
                last = index == num_cells[level] - 1
                size = sides(divided(resolution, 2**level))
                place = Place("encoder", level, size, index, last)
                column.append(cells.cell(width, widths[level], place))
                width = widths[level]
                self.skip_widths.append(width)
            levels.append(Level(down, column, pyramid))
        self.encoder = nn.ModuleList(levels)
        self.widths = tuple(widths)

    def spots(self) -> Iterator[Spot]:
        """Behind which cells an operator's temporal layers go."""
        for width, level in zip(self.widths, _levels(self.encoder), strict=True):
            for number in range(len(level.cells)):
                yield Spot(level.cells, number, width)

    def encode(self, x: Tensor, embedding: Tensor, layout: torch.memory_format) -> list[Tensor]:
        """The stem's output, then that of every transition and cell."""
        pyramid = x
        # Features take the layout of the weights; a stem on one channel can't tell which it is.
        x = self.stem(x).contiguous(memory_format=layout)
        skips = [x]
        for level in _levels(self.encoder):
            if level.transition is not None:
                x = level.transition(x, embedding)
                if level.pyramid is not None:
                    x = pyramid = (x + level.pyramid(pyramid)) * 0.5**0.5
                skips.append(x)
            for cell in level.cells:
                x = cell(x, embedding)
                skips.append(x)
        return skips


class UNet(Encoder):
    """The skeleton. `num_middle` cells stand at the bottom; arguments else as for `Encoder`."""

    def __init__(
        self,
        cells: Cells,
        resolution: int | tuple[int, int],
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        num_cells: Sequence[int],
        num_middle: int,
        eps: float = 1e-5,
        stem_width: int | None = None,
        head_groups: int | None = None,
    ) -> None:
        super().__init__(cells, resolution, in_channels, widths, num_cells, stem_width=stem_width)
        depth, skips, width = len(widths), list(self.skip_widths), widths[-1]
        bottom = sides(divided(resolution, 2 ** (depth - 1)))
        self.middle = nn.ModuleList(
            cells.cell(width, width, Place("middle", depth - 1, bottom, i, i == num_middle - 1))
            for i in range(num_middle)
        )

        decoder = []
        for level in reversed(range(depth)):
            up = cells.up(width) if level < depth - 1 else None
            column = []
            for index in range(num_cells[level] + 1):
                last = index == num_cells[level]
                size = sides(divided(resolution, 2**level))
                place = Place("decoder", level, size, index, last)
                column.append(cells.cell(width + skips.pop(), widths[level], place))
                width = widths[level]
            decoder.append(Level(up, column))
        self.decoder = nn.ModuleList(decoder)

        self.head_norm = GroupNorm(width, eps, groups=head_groups)
        self.head = zero(nn.Conv2d(width, out_channels, 3, padding=1))

    def spots(self) -> Iterator[Spot]:
        yield from super().spots()
        if len(self.middle):
            yield Spot(self.middle, 0, self.widths[-1])
        for width, level in zip(reversed(self.widths), _levels(self.decoder), strict=True):
            for number in range(len(level.cells)):
                yield Spot(level.cells, number, width)

    def forward(
        self,
        x: Float[Tensor, "batch in_channels height width"],
        embedding: Float[Tensor, "batch embedding_width"],
    ) -> Float[Tensor, "out_batch out_channels height width"]:
        skips = self.encode(x, embedding, _layout(self.head))
        x = skips[-1]
        for cell in self.middle:
            x = cell(x, embedding)
        for level in _levels(self.decoder):
            if level.transition is not None:
                x = level.transition(x, embedding)
            for cell in level.cells:
                x = cell(torch.cat((x, skips.pop()), dim=1), embedding)
        return self.head(self.head_norm(x))


class AggregationNet(Encoder):
    """An encoder and, in place of the decoder, SETR's multi-level aggregation.

    Four feature maps, evenly spread over the encoder, each go through a 1x1 convolution, are summed
    from the deepest to the shallowest, go through a 3x3 convolution, and are upsampled to the full
    resolution; two convolutions on all of them give the output. Zheng et al. 2021
    (arXiv 2012.15840), the decoder of DiffiT's first ablations.
    """

    def __init__(
        self,
        cells: Cells,
        resolution: int | tuple[int, int],
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        num_cells: Sequence[int],
        patch: int = 1,
    ) -> None:
        super().__init__(cells, resolution, in_channels, widths, num_cells, patch)
        count = len(self.skip_widths) - 1
        self.taps = sorted({round(count * quarter / 4) for quarter in (1, 2, 3, 4)})
        width = widths[-1] // 2
        self.lateral = nn.ModuleList(nn.Conv2d(self.skip_widths[t], width, 1) for t in self.taps)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in self.taps)
        self.merge = nn.Conv2d(width * len(self.taps), widths[0], 3, padding=1)
        self.head_norm = GroupNorm(widths[0])
        self.head = zero(nn.Conv2d(widths[0], out_channels, 3, padding=1))

    def forward(
        self,
        x: Float[Tensor, "batch in_channels height width"],
        embedding: Float[Tensor, "batch embedding_width"],
    ) -> Float[Tensor, "batch out_channels height width"]:
        size = x.shape[2:]
        features = self.encode(x, embedding, _layout(self.head))
        parts, total = [], None
        for tap, lateral, smooth in reversed(
            list(zip(self.taps, self.lateral, self.smooth, strict=True))
        ):
            part = lateral(features[tap])
            if total is not None:
                part = part + F.interpolate(total, part.shape[2:])
            total = part
            parts.append(F.interpolate(smooth(F.silu(part)), size, mode="bilinear"))
        return self.head(self.head_norm(self.merge(torch.cat(parts, dim=1))))


def _layout(head: nn.Conv2d | nn.Linear) -> torch.memory_format:
    last = head.weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _levels(levels: nn.ModuleList) -> Iterable[Level]:
    """What the list is known to hold, for the type checker."""
    return cast(Iterable[Level], levels)
