"""Frequencies of images, noise and features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from overtone.analysis.figures.axes import one_panel, open_frame
from overtone.analysis.fourier import Spectra


def snr_curves(curves: Mapping[str, Sequence[float]], size: int, factor: int, path: Path) -> None:
    """Signal-to-noise ratios by frequency band, from `spectra.signal_to_noise`."""
    figure, axes = one_panel("frequency of the DCT", "signal-to-noise ratio")
    looks = {
        "low": (f"{size // factor} px, enlarged", "0.4", "-"),
        "white": (f"{size} px, white noise", "C0", "-"),
        "block": (f"{size} px, block noise", "C3", "-"),
        "mixture": (f"{size} px, the relay's mixture", "C2", "--"),
    }
    for name, (label, color, style) in looks.items():
        axes.plot(curves[name], style, color=color, label=label)
    axes.axvline(size // factor, color="0.8", linestyle=":")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def spectra_figure(models: Sequence[tuple[str, Spectra]], path: Path) -> None:
    """A row a model: x_t by frequency; features by frequency, a curve a layer, at three noise
    levels; and the highest frequency of each layer, a curve a noise level (or an expert). Models
    are of the same noise levels, and their panels have one scale."""
    from matplotlib.figure import Figure

    shown = _three(len(models[0][1].sigmas))
    figure = Figure(figsize=(14, 3.4 * len(models)), layout="constrained")
    parts = figure.subfigures(len(models), 1, squeeze=False)[:, 0]
    grid = [part.subplots(1, 2 + len(shown)) for part in parts]
    for part, panels, (name, spectra) in zip(parts, grid, models, strict=True):
        if len(models) > 1:
            part.suptitle(name)
        _draw(panels, spectra, shown)
    for column in zip(*grid, strict=True):
        low = min(axes.get_ylim()[0] for axes in column)
        high = max(axes.get_ylim()[1] for axes in column)
        for axes in column:
            axes.set_ylim(low, high)
    figure.savefig(path, dpi=120)


def _three(count: int) -> list[int]:
    """The first, the middle and the last of so many."""
    return sorted({0, count // 2, count - 1})


def _draw(panels: Sequence[Any], spectra: Spectra, shown: Sequence[int]) -> None:
    """One model's panels."""
    from matplotlib import colormaps

    frequencies = [i / (len(spectra.images[0]) - 1) for i in range(len(spectra.images[0]))]
    shade = colormaps["viridis"]
    names = [rf"$\sigma$ = {sigma:.3g}" for sigma in spectra.sigmas]
    if spectra.experts:
        pairs = zip(names, spectra.experts, strict=True)
        names = [f"{name}, expert {expert}" for name, expert in pairs]
    colors = [shade(i / max(len(names) - 1, 1)) for i in range(len(names))]
    for name, color, curve in zip(names, colors, spectra.images, strict=True):
        panels[0].plot(frequencies, curve, color=color, label=name)
    panels[0].set(title="$x_t$", xlabel="frequency", ylabel="log amplitude")
    panels[0].legend(frameon=False, fontsize=7)
    for at, axes in zip(shown, panels[1:-1], strict=True):
        curves = list(spectra.features[at].values())
        for depth, curve in enumerate(curves):
            color = shade(depth / max(len(curves) - 1, 1))
            axes.plot(frequencies, curve, color=color, lw=0.8)
        axes.set_title(f"features, {names[at]}", fontsize=10)
        axes.set_xlabel("frequency")
    panels[1].set(ylabel="relative log amplitude")
    for name, color, layers in zip(names, colors, spectra.features, strict=True):
        panels[-1].plot([curve[-1] for curve in layers.values()], color=color, label=name)
    panels[-1].set(title="highest frequency", xlabel="layer, as called")
    for axes in panels:
        open_frame(axes)
