"""Pictures of a training run and of the way from noise to image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from overtone.analysis.figures.axes import one_panel
from overtone.data.images import to_pixels
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


def _over_images(label: str) -> tuple[Any, Any]:
    """A figure and its axes over the number of images seen."""
    figure, axes = one_panel("images seen", label)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g} k")
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
