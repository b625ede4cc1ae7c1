"""The U: one skeleton for every U-shaped network, which differ in the cells they hang into it.

    stem (3x3) -> each level: [down], cells -> middle -> each level: cells, [up] -> norm, 3x3

Every output of the encoder (the stem's and the transitions' too) is a skip. The decoder has one
cell more a level than the encoder, each on concat(current, skip); transitions keep the width and
take no skip. This is the layout of EDM's and ADM's networks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from overtone.networks.layers import GroupNorm, zero


class Place(NamedTuple):
    """Where in the U a cell stands."""

    stage: Literal["encoder", "middle", "decoder"]
    level: int  # 0 is the full resolution
    resolution: int  # in pixels, at this level
    number: int  # counted from 0 within the level
    last: bool  # whether no cell of the level follows


class Cells(ABC):
    """Makes the parts of a U. Each part is called as `part(x, embedding)` and returns features."""

    @abstractmethod
    def cell(self, in_channels: int, out_channels: int, place: Place) -> nn.Module: ...

    @abstractmethod
    def down(self, channels: int) -> nn.Module: ...

    @abstractmethod
    def up(self, channels: int) -> nn.Module: ...


class Level(nn.Module):
    """The cells of one resolution and, before them, the transition that leads there."""

    def __init__(self, transition: nn.Module | None, cells: Sequence[nn.Module]) -> None:
        super().__init__()
        self.transition: nn.Module | None = transition
        self.cells = nn.ModuleList(cells)


class UNet(nn.Module):
    """The skeleton.

    `widths` and `num_cells` have one entry a level, full resolution first; `num_middle` cells
    stand at the bottom. The resolution halves from level to level and must divide accordingly.
    """

    def __init__(
        self,
        cells: Cells,
        resolution: int,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        num_cells: Sequence[int],
        num_middle: int,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        depth = len(widths)
        if not depth or len(num_cells) != depth:
            raise ValueError(f"{depth} widths, but cells for {len(num_cells)} levels")
        if min(*widths, *num_cells) < 1:
            raise ValueError("every level has at least one channel and one cell")
        if resolution % 2 ** (depth - 1):
            raise ValueError(f"resolution {resolution} can't be halved {depth - 1} times")

        width = widths[0]
        skips = [width]
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)

        encoder = []
        for level in range(depth):
            down = cells.down(width) if level else None
            if level:
                skips.append(width)
            column = []
            for index in range(num_cells[level]):
                last = index == num_cells[level] - 1
                place = Place("encoder", level, resolution >> level, index, last)
                column.append(cells.cell(width, widths[level], place))
                width = widths[level]
                skips.append(width)
            encoder.append(Level(down, column))
        self.encoder = nn.ModuleList(encoder)

        bottom = resolution >> depth - 1
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
                place = Place("decoder", level, resolution >> level, index, last)
                column.append(cells.cell(width + skips.pop(), widths[level], place))
                width = widths[level]
            decoder.append(Level(up, column))
        self.decoder = nn.ModuleList(decoder)

        self.head_norm = GroupNorm(width, eps)
        self.head = zero(nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(
        self,
        x: Float[Tensor, "batch in_channels height width"],
        embedding: Float[Tensor, "batch embedding_width"],
    ) -> Float[Tensor, "batch out_channels height width"]:
        # Features take the layout of the weights; a stem on one channel can't tell which it is.
        last = self.head.weight.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        x = self.stem(x).contiguous(memory_format=layout)
        skips = [x]
        for level in _levels(self.encoder):
            if level.transition is not None:
                x = level.transition(x, embedding)
                skips.append(x)
            for cell in level.cells:
                x = cell(x, embedding)
                skips.append(x)
        for cell in self.middle:
            x = cell(x, embedding)
        for level in _levels(self.decoder):
            if level.transition is not None:
                x = level.transition(x, embedding)
            for cell in level.cells:
                x = cell(torch.cat((x, skips.pop()), dim=1), embedding)
        return self.head(self.head_norm(x))


def _levels(levels: nn.ModuleList) -> Iterable[Level]:
    """What the list is known to hold, for the type checker."""
    return cast(Iterable[Level], levels)
