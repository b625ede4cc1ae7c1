"""Pictures of a training run and of the way from noise to image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from overtone.analysis.fourier import Spectra
from overtone.data.images import Pixels, to_pixels
from overtone.pipelines.pictures import grid
from overtone.pipelines.pipeline import Pipeline


def training_curve(log: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss and held-out loss against images seen, from the lines of a run's log."""
    figure, axes = _over_images("loss")
    loss = [(entry["images"], entry["loss"]) for entry in log if "loss" in entry]
    axes.plot(*zip(*loss, strict=True), color="0.6", label="training")
    for key, label in (("held_out_loss", "held out"), ("averaged_loss", "training images")):
        points = [(entry["images"], entry[key]) for entry in log if key in entry]
        if points:
            axes.plot(
                *zip(*points, strict=True), "o-", color="C3", label=f"{label}, averaged weights"
            )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def distance_curve(
    images: Sequence[int], distances: Sequence[float], real: float, path: Path
) -> None:
    """Frechet distance against images seen; `real` is that between two halves of the data."""
    figure, axes = _over_images("Fréchet distance")
    axes.plot(images, distances, "o-", color="C3", label="samples")
    axes.axhline(real, color="0.6", linestyle=":", label="two halves of the real images")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def guidance_curve(
    scales: Sequence[float], distances: Sequence[float], real: float, path: Path
) -> None:
    """Frechet distance against the guidance scale, the lowest marked."""
    figure, axes = _axes("guidance scale", "Fréchet distance")
    axes.plot(scales, distances, "o-", color="C3", label="samples")
    lowest = min(range(len(scales)), key=lambda i: distances[i])
    axes.plot(scales[lowest], distances[lowest], "o", color="C3", markersize=11, fillstyle="none")
    axes.axhline(real, color="0.6", linestyle=":", label="two halves of the real images")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def snr_curves(curves: Mapping[str, Sequence[float]], size: int, factor: int, path: Path) -> None:
    """Signal-to-noise ratios by frequency band, from `spectra.signal_to_noise`."""
    figure, axes = _axes("frequency of the DCT", "signal-to-noise ratio")
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


def spectra_figure(spectra: Spectra, path: Path) -> None:
    """Three panels: x_t by frequency; features by frequency, a curve a layer, at three noise
    levels; and the highest frequency of each layer, a curve a noise level (or an expert)."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 3.4), layout="constrained")
    shown = sorted({0, len(spectra.sigmas) // 2, len(spectra.sigmas) - 1})
    panels = figure.subplots(1, 2 + len(shown))
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
            axes.plot(frequencies, curve, color=shade(depth / max(len(curves) - 1, 1)), lw=0.8)
        axes.set(title=f"features, {names[at]}", xlabel="frequency")
    panels[1].set(ylabel="relative log amplitude")
    for name, color, layers in zip(names, colors, spectra.features, strict=True):
        panels[-1].plot([curve[-1] for curve in layers.values()], color=color, label=name)
    panels[-1].set(title="highest frequency", xlabel="layer, as called")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


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
        axes.spines[["top", "right"]].set_visible(False)
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
            axes, image = panels[row][column], states[column].permute(1, 2, 0).numpy()
            axes.imshow(
                image.squeeze(-1) if image.shape[-1] == 1 else image, "gray", vmin=0, vmax=255
            )
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(
                    rf"$\sigma$ = {sigmas[column]:.2g}" + f"\n{errors[column]:.0%} off", fontsize=7
                )
        panels[row][0].set_ylabel("solver" if row % 2 == 0 else "operator", fontsize=7)
    figure.savefig(path, dpi=150)


def _over_images(label: str) -> tuple[Any, Any]:
    """A figure and its axes over the number of images seen."""
    figure, axes = _axes("images seen", label)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g} k")
    return figure, axes


def _axes(xlabel: str, ylabel: str) -> tuple[Any, Any]:
    """A figure and its axes, logarithmic upwards."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def denoising_path(
    pipe: Pipeline, seeds: Sequence[int], columns: int = 10, **arguments: Any
) -> Image.Image:
    """A row a seed: x on its way from noise to image, scaled to the data's variance; of a model of
    latents the estimates of x_0, decoded.

    `columns` steps are shown, spread evenly from sigma = 10 on, above which there is only noise to
    see; the last is the image. `arguments` go to the pipeline's `path`.
    """
    c_in, frames = pipe.preconditioning.c_in, []
    for step in pipe.path(seeds, **arguments):
        if step.sigma < 10 and pipe.vae is not None:
            frames.append(pipe.pixels(step.x_0).cpu())
        elif step.sigma < 10:
            frames.append(to_pixels(step.x * (c_in(step.sigma) / c_in(0.0))).cpu())
    shown = torch.linspace(0, len(frames) - 1, min(columns, len(frames))).round().int().tolist()
    rows = torch.stack([frames[i] for i in shown], dim=1)
    return grid(rows.flatten(0, 1), len(shown), gap=1)
