"""Pictures of a training run and of the way from noise to image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from overtone.analysis.figures.axes import open_frame
from overtone.data.images import to_pixels
from overtone.metrics.scores import measures
from overtone.pipelines.pictures import grid
from overtone.pipelines.pipeline import Pipeline


def training_curve(log: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss and held-out loss against images seen, from the lines of a run's log, and behind them
    the scores of its checkpoints with their intervals, if there are any."""
    scored = [name for name in measures() if any(name in entry for entry in log)]
    figure, (axes, *others) = _over_images("loss", *(measures()[name].title for name in scored))
    for name, panel in zip(scored, others, strict=True):
        _scored(panel, [entry for entry in log if name in entry], name)
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


def _scored(axes: Any, entries: Sequence[dict[str, Any]], name: str) -> None:
    """A score over images, with its interval where there is one."""
    images, values = zip(*((entry["images"], entry[name]) for entry in entries), strict=True)
    axes.plot(images, values, "o-", color="C3", markersize=3)
    known = [entry for entry in entries if f"{name}_low" in entry]
    ends = [(entry[f"{name}_low"], entry[f"{name}_high"]) for entry in known]
    if known:
        low, high = zip(*ends, strict=True)
        places = [entry["images"] for entry in known]
        axes.fill_between(places, low, high, color="C3", alpha=0.2, linewidth=0)
    lowest = min([*values, *(low for low, _ in ends)])
    # A logarithm would leave out what is not positive, as a kernel distance may be.
    axes.set_yscale("linear" if measures()[name].share or lowest <= 0 else "log")


def distance_curve(
    images: Sequence[int], distances: Sequence[float], real: float, path: Path
) -> None:
    """Fréchet distance against images seen; `real` is that between two halves of the data."""
    figure, (axes,) = _over_images("Fréchet distance")
    axes.plot(images, distances, "o-", color="C3", label="samples")
    axes.axhline(real, color="0.6", linestyle=":", label="two halves of the real images")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _over_images(*labels: str) -> tuple[Any, list[Any]]:
    """A figure of panels side by side over the number of images seen, one for each label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 + 3 * (len(labels) - 1), 3), layout="constrained")
    panels = list(figure.subplots(1, len(labels), squeeze=False)[0])
    for axes, label in zip(panels, labels, strict=True):
        axes.set(xlabel="images seen", ylabel=label, yscale="log")
        open_frame(axes)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g} k")
    return figure, panels


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
