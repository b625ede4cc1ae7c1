"""The picture of a comparison of models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from overtone.metrics.scores import measures
from overtone.pipelines.pictures import grid

if TYPE_CHECKING:
    from overtone.analysis.comparison import Comparison, Entry


def comparison_figure(found: Comparison, path: Path) -> None:
    """Images of the same seeds, a row a model, at its highest budget; the scores there with their
    95 % intervals; and the first score against function evaluations and against seconds."""
    from matplotlib.figure import Figure

    models = found.models
    names = list(found.of(models[0])[-1].report.scores)
    rows = -(-len(names) // 4)
    figure = Figure(figsize=(12, 1.1 * len(models) + 2.6 * rows + 3.4), layout="constrained")
    parts: Any = figure.subfigures(3, 1, height_ratios=[1.1 * len(models), 2.6 * rows, 3])
    top, middle, bottom = parts
    _images(top, found)
    _scores(middle, found, names, rows)
    _curves(bottom, found, names[0])
    figure.savefig(path, dpi=120, format="png")


def _images(figure: Any, found: Comparison) -> None:
    figure.suptitle("the same seeds", fontsize=10)
    panels = figure.subplots(len(found.models), 1, squeeze=False)[:, 0]
    for axes, model in zip(panels, found.models, strict=True):
        entry = found.of(model)[-1]
        axes.imshow(grid(entry.images, len(entry.images), gap=1), "gray", vmin=0, vmax=255)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_ylabel(f"{model}\n{entry.evaluations:g} evaluations", rotation=0, ha="right",
                        va="center", fontsize=9)  # fmt: skip


def _differences(found: Comparison, name: str) -> list[str]:
    """The differences from the first model at the highest budget, in words."""
    shown, lines = measures()[name].shown, []
    highest = found.of(found.models[0])[-1].budget
    for row in found.paired():
        if (row["score"], row["budget"]) == (name, highest) and row["low"] is not None:
            ends = f"{shown(row['low'])} to {shown(row['high'])}"
            lines.append(f"{row['model']} {shown(row['difference'])} ({ends})")
    return [f"less {found.models[0]}:", *lines] if lines else []


def _scores(figure: Any, found: Comparison, names: list[str], rows: int) -> None:
    from matplotlib.ticker import MaxNLocator

    panels = figure.subplots(rows, 4, squeeze=False).flatten()
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(panels, names, strict=False):
        for place, model in enumerate(found.models):
            score = found.of(model)[-1].report.scores.get(name)
            if score is None:
                continue
            ends = score.interval or (score.value, score.value)
            axes.plot(ends, [place, place], color=f"C{place}", linewidth=2)
            axes.plot(score.value, place, "o", color=f"C{place}")
        axes.set(yticks=range(len(found.models)), ylim=(len(found.models) - 0.5, -0.5))
        axes.set_yticklabels(found.models if axes.get_subplotspec().is_first_col() else [])
        measure = measures()[name]
        better = ", lower is better" if measure.lower_is_better else ""
        axes.set_title(f"{measure.title}{better}", fontsize=9)
        axes.set_xlabel("\n".join(_differences(found, name)), fontsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)


def _curves(figure: Any, found: Comparison, name: str) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    for place, model in enumerate(found.models):
        entries = found.of(model)
        for axes, what in ((left, "evaluations"), (right, "seconds")):
            _curve(axes, entries, what, name, f"C{place}", model)
    left.set(xlabel="function evaluations of an image", ylabel=measures()[name].title)
    right.set(xlabel="seconds an image, on this machine")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.set(xscale="log", yscale="log" if measures()[name].lowest == 0 else "linear")
        axes.spines[["top", "right"]].set_visible(False)


def _curve(
    axes: Any, entries: tuple[Entry, ...], what: str, name: str, color: str, label: str
) -> None:
    places = [getattr(entry, what) for entry in entries]
    scores = [entry.report.scores[name] for entry in entries]
    values = [score.value for score in scores]
    ends = [score.interval or (score.value, score.value) for score in scores]
    off = [[v - low for v, (low, _) in zip(values, ends, strict=True)],
           [high - v for v, (_, high) in zip(values, ends, strict=True)]]  # fmt: skip
    off = [[max(distance, 0.0) for distance in side] for side in off]
    axes.errorbar(places, values, yerr=off, fmt="o-", color=color, label=label, capsize=3)
