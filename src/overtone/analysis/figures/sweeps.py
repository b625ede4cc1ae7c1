"""Scores against a setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overtone.analysis.figures.axes import open_frame
from overtone.metrics.scores import Measure

Interval = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """A score at each value of the setting."""

    measure: Measure
    scores: Sequence[float]
    intervals: Sequence[Interval | None]
    """The 95 % interval of each value, where it is known."""
    real: float | None = None
    """The same score between two halves of the real images."""

    @property
    def best(self) -> int:
        """Where the score is best."""
        choose = min if self.measure.lower_is_better else max
        return choose(range(len(self.scores)), key=lambda i: self.scores[i])


def sweep_figure(
    setting: str, values: Sequence[float], curves: Sequence[Curve], path: Path
) -> None:
    """A panel a score against the setting, with 95 % intervals, the best value marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3 * len(curves)), layout="constrained")
    panels = figure.subplots(len(curves), 1, squeeze=False, sharex=True)[:, 0]
    for axes, curve in zip(panels, curves, strict=True):
        _draw(axes, values, curve)
    panels[-1].set_xlabel(setting)
    named: dict[str, Any] = {}
    for axes in panels:  # one legend for all, above them, where no interval is hidden
        named |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        named.values(), named, loc="outside upper center", ncols=3, frameon=False, fontsize=8
    )
    figure.savefig(path, dpi=120)


def _draw(axes: Any, values: Sequence[float], curve: Curve) -> None:
    scores = curve.scores
    axes.plot(values, scores, "o-", color="C3", markersize=4, label="samples")
    known = [(v, i) for v, i in zip(values, curve.intervals, strict=True) if i is not None]
    if known:
        places, pairs = zip(*known, strict=True)
        lows, highs = zip(*pairs, strict=True)
        axes.vlines(places, lows, highs, color="C3", linewidth=1.2, label="95 % interval")
        axes.plot(places, lows, "_", places, highs, "_", color="C3")
    best = curve.best
    axes.plot(values[best], scores[best], "o", color="C3", markersize=11, fillstyle="none")
    ends = [end for interval in curve.intervals if interval is not None for end in interval]
    if curve.measure.lower_is_better and min((*scores, *ends)) > 0:
        axes.set_yscale("log")
    if curve.real is not None:
        axes.axhline(curve.real, color="0.6", linestyle=":", label="two halves of the real images")
    axes.set_ylabel(curve.measure.title)
    open_frame(axes)
