"""What figures have in common."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def one_panel(xlabel: str, ylabel: str, yscale: str = "log") -> tuple[Any, Any]:
    """A figure and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale=yscale)
    open_frame(axes)
    return figure, axes


def open_frame(axes: Any) -> None:
    """Only the left and the lower edge of a panel."""
    axes.spines[["top", "right"]].set_visible(False)


def show_image(axes: Any, image: Tensor, **more: Any) -> None:
    """A uint8 image (channels, height, width) without ticks."""
    array = image.permute(1, 2, 0).numpy()
    array = array.squeeze(-1) if array.shape[-1] == 1 else array
    axes.imshow(array, "gray", vmin=0, vmax=255, **more)
    axes.set(xticks=[], yticks=[])
