"""Settings of MEME's iU-Net, and the published ratios of convolution to attention.

Lee et al. 2023 (arXiv 2306.04990). Near the clean image convolution restores high frequencies, near
noise attention restores low ones: each expert, and each level of it, has its ratio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from overtone.networks.configs.adm import ADMConfig
from overtone.ranges import Ratio, SizeOrNone

RATIOS = {(1, 2): 5 / 8, (4, 2): 1 / 4, (1, 4): 1 / 3, (4, 4): 1 / 15}
"""The published d_h : d_l by (expert, level), of 4 experts, the first nearest the clean image, and
4 levels, the first at full resolution."""


def ratio(expert: float, level: float) -> float:
    """d_h : d_l, interpolated geometrically between the published points; both from 1 to 4."""
    u, v = (expert - 1) / 3, (level - 2) / 2
    shares = {(1, 2): (1 - u) * (1 - v), (4, 2): u * (1 - v), (1, 4): (1 - u) * v, (4, 4): u * v}
    return math.exp(sum(share * math.log(RATIOS[point]) for point, share in shares.items()))


def inception_heads(
    widths: Sequence[int], head_channels: int, expert: int = 1, experts: int = 1
) -> tuple[int, ...]:
    """Heads of attention a level of expert `expert` of `experts`, counted from the clean image.

    Experts and levels are spread over the published four; a single network for all of time stands
    in their middle. d_l is rounded to whole heads, and one head's width at least is left to
    convolution. Raises `ValueError` for an expert that is none, or a width of less than two heads.
    """
    if not 1 <= expert <= experts:
        raise ValueError(f"expert {expert} is not one of 1 to {experts}")
    place = 1 + 3 * (expert - 1) / (experts - 1) if experts > 1 else 2.5
    heads = []
    for level, width in enumerate(widths):
        count = width // head_channels
        if width % head_channels or count < 2:
            raise ValueError(
                f"width {width} does not divide into two heads of {head_channels} channels or more"
            )
        depth = 1 + 3 * level / (len(widths) - 1) if len(widths) > 1 else 4.0
        wanted = count / (1 + ratio(place, depth))
        heads.append(min(max(round(wanted), 1), count - 1))
    return tuple(heads)


@dataclass(frozen=True)
class IUNetConfig(ADMConfig, kind="IUNet"):
    """Settings of `IUNet`: those of the U-Net that it is made from, and its inception cells'."""

    builds: ClassVar[str] = "overtone.networks.iunet:IUNet"

    inception_heads: tuple[SizeOrNone, ...] = ()
    """The number of attention heads in the inception cells of each level; their other channels
    convolve and pool. If none are given, the numbers lie between those of the published experts."""
    pool_above: SizeOrNone = 16
    """Above this resolution, in pixels, inception cells attend to averages of 2 x 2 pixels."""
    mlp_ratio: Ratio = 4.0
    """The hidden width of an inception cell's MLP, as a multiple of the cell's width."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inception_heads and len(self.inception_heads) != len(self.widths):
            raise ValueError(
                f"inception_heads has {len(self.inception_heads)} entries for"
                f" {len(self.widths)} levels"
            )
        if self.num_cells < 2:
            raise ValueError(
                "an iU-Net has 2 cells a level or more: a residual cell, then an inception cell"
            )

    @property
    def attending(self) -> tuple[int, ...]:
        """Heads that attend at each level: `inception_heads`, or the usual ones."""
        usual = inception_heads(self.widths, self.head_channels)  # which checks the widths
        return self.inception_heads or usual

    def for_expert(self, number: int, count: int) -> Any:
        if self.inception_heads:
            raise ValueError("the published shapes set inception_heads: leave it out")
        heads = inception_heads(self.widths, self.head_channels, number, count)
        return replace(self, inception_heads=heads)

    @property
    def channel_split(self) -> str:
        low = [count * self.head_channels for count in self.attending]
        return "  ".join(f"{w - d}:{d}" for w, d in zip(self.widths, low, strict=True))
