"""Trajectories over time, and an operator's beside the solver's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from overtone.analysis.figures.axes import open_frame, show_image
from overtone.data.images import Pixels


def temporal_figure(
    spectra: Sequence[tuple[str, Sequence[float], Sequence[float]]], path: Path
) -> None:
    """Energy by temporal mode, and that of all modes up to one, of trajectories (what they are,
    energy, cumulative)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, energy, cumulative in spectra:
        modes = range(1, len(energy) + 1)
        left.plot(modes, energy, "o-", markersize=3, label=name)
        right.plot(modes, [max(1 - held, 1e-12) for held in cumulative], "o-", markersize=3)
    left.set(xlabel="temporal mode", ylabel="share of energy", yscale="log")
    right.set(xlabel="modes kept", ylabel="energy left out", yscale="log", ylim=(1e-6, 1.5))
    left.legend(frameon=False)
    for axes in (left, right):
        open_frame(axes)
    figure.savefig(path, dpi=120)


def trajectory_figure(
    solver: Pixels, operator: Pixels, sigmas: Sequence[float], errors: Sequence[float], path: Path
) -> None:
    """A pair of rows a seed, the solver's states above the operator's, a column a noise level with
    the relative difference there. States are uint8 (batch, times, channels, height, width)."""
    from matplotlib.figure import Figure

    count, times = solver.shape[:2]
    size = 0.75
    figure = Figure(figsize=(size * times + 1.1, 2 * count * size + 0.7), layout="constrained")
    panels = figure.subplots(2 * count, times, squeeze=False)
    for row in range(2 * count):
        states = (solver if row % 2 == 0 else operator)[row // 2]
        for column in range(times):
            axes = panels[row][column]
            show_image(axes, states[column])
            if row == 0:
                axes.set_title(
                    rf"$\sigma$ = {sigmas[column]:.2g}" + f"\n{errors[column]:.0%} off", fontsize=7
                )
        panels[row][0].set_ylabel("solver" if row % 2 == 0 else "operator", fontsize=7)
    figure.savefig(path, dpi=150)
