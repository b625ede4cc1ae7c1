"""Attention maps over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from overtone.analysis.attention import AttentionMap
from overtone.analysis.figures.axes import show_image
from overtone.data.images import Pixels

PANEL = 0.85
"""inches"""
GAPS: dict[str, Any] = {"w_pad": 0.02, "h_pad": 0.02, "wspace": 0.01, "hspace": 0.01}


class Shown(NamedTuple):
    """A map as it is drawn: of one head, or the mean over the heads."""

    weights: Tensor
    """The attention weights are (batch, rows, columns)."""
    time_share: Tensor
    """The weights of the time's own token are (batch,)."""
    box: tuple[float, float, float, float]
    """The window in pixels of the image: left, top, width, height."""


@dataclass(frozen=True)
class AttentionPanels:
    """One model's part of the figure."""

    name: str
    sigmas: Sequence[float]
    estimates: Sequence[Pixels]
    """The estimates of each noise level are (batch, channels, height, width)."""
    rows: Sequence[tuple[str, Sequence[Shown]]]
    """The title of each row, and a map for each noise level."""


def shown(found: AttentionMap, head: int | None, height: int, width: int) -> Shown:
    """A map of one head, or the mean over them, for images of `height` x `width` px."""
    heads = slice(None) if head is None else slice(head, head + 1)
    rows, columns = found.weights.shape[-2:]
    top, left, high, wide = found.window
    down, across = height / rows, width / columns
    box = (left * across, top * down, wide * across, high * down)
    return Shown(found.weights[:, heads].mean(1), found.time_share[:, heads].mean(1), box)


def attention_figure(
    models: Sequence[AttentionPanels],
    seeds: Sequence[int],
    query: tuple[int, int],
    path: Path,
) -> None:
    """Models side by side. For each seed a row of estimates with the query marked, and a row of
    maps for each entry of `rows`, over the image in grey; a column a noise level. All maps of an
    entry have one scale, from 0 to the largest weight."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    times, each = max(len(model.sigmas) for model in models), 1 + len(models[0].rows)
    size = (PANEL * times + 1.9) * len(models), PANEL * each * len(seeds) + 0.75
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(**GAPS))
    scales = [
        max(float(one.weights.max()) for model in models for one in model.rows[entry][1])
        for entry in range(each - 1)
    ]
    parts = figure.subfigures(1, len(models), squeeze=False)[0]
    for part, model in zip(parts, models, strict=True):
        part.suptitle(model.name, fontsize=9)
        panels = part.subplots(each * len(seeds), len(model.sigmas), squeeze=False)
        for number, seed in enumerate(seeds):
            _draw(part, panels[number * each : (number + 1) * each], model, number, query, scales)
            _label(panels[number * each][0], f"seed {seed}")
        for axes, sigma in zip(panels[0], model.sigmas, strict=True):
            axes.set_title(rf"$\sigma$ = {sigma:.2g}", fontsize=7)
    figure.savefig(path, dpi=150)


def _draw(
    part: Any,
    panels: Any,
    model: AttentionPanels,
    number: int,
    query: tuple[int, int],
    scales: Sequence[float],
) -> None:
    """The rows of one seed."""
    from matplotlib.patches import Rectangle

    for axes, estimate in zip(panels[0], model.estimates, strict=True):
        show_image(axes, estimate[number])
        _mark(axes, query)
    for row, (name, maps), scale in zip(panels[1:], model.rows, scales, strict=True):
        _label(row[0], name)
        for axes, estimate, one in zip(row, model.estimates, maps, strict=True):
            grey = estimate[number].float().mean(0, keepdim=True).to(torch.uint8)
            show_image(axes, grey, alpha=0.5)
            left, top, width, height = one.box
            inside = _inside(one, estimate.shape[-2], estimate.shape[-1])[number]
            edges = (left - 0.5, left + width - 0.5, top + height - 0.5, top - 0.5)
            heat = axes.imshow(
                inside.numpy(), "inferno", vmin=0, vmax=scale, alpha=0.8, extent=edges
            )
            axes.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False,
                                     edgecolor="white", linewidth=0.5))  # fmt: skip
            axes.set(xlim=(-0.5, grey.shape[2] - 0.5), ylim=(grey.shape[1] - 0.5, -0.5))
            _mark(axes, query)
            if float(one.time_share.max()) > 0:
                share = f"time {float(one.time_share[number]):.0%}"
                axes.set_xlabel(share, fontsize=5, labelpad=1)
        place = row[-1].inset_axes((1.06, 0, 0.07, 1))
        bar = part.colorbar(heat, cax=place, ticks=[0, scale])
        bar.ax.set_yticklabels(["0", f"{scale:.2g}"], fontsize=5)


def _inside(one: Shown, height: int, width: int) -> Tensor:
    """The tokens of the window alone."""
    rows, columns = one.weights.shape[-2:]
    left, top, wide, high = one.box
    first, across = round(top * rows / height), round(left * columns / width)
    below = first + round(high * rows / height)
    return one.weights[:, first:below, across : across + round(wide * columns / width)]


def _label(axes: Any, text: str) -> None:
    axes.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=6)


def _mark(axes: Any, query: tuple[int, int]) -> None:
    axes.plot(query[1], query[0], "+", color="#00e5ff", markersize=5, markeredgewidth=0.9)
