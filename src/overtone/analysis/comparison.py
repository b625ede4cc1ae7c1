"""Models compared on the same seeds, beside the same real images, at equal budgets.

    from overtone import compare

    found = compare({"experts": "runs/meme", "one network": pipe}, seeds=range(500),
                    evaluations=(8, 16, 32))
    found.frame()           # a pandas data frame: a row for each model, budget and score
    found.differences()     # each model minus the first, with intervals
    found.draw("compare.png")

A budget is a number of function evaluations: calls of a network for one image, guidance and first
stages included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from overtone.data.images import Pixels
from overtone.errors import OvertoneError
from overtone.metrics.evaluate import Evaluation, Report
from overtone.metrics.extractors import features_by_name
from overtone.metrics.halves import difference
from overtone.metrics.scores import measures, scores_by_name
from overtone.metrics.solver import evaluated
from overtone.pipelines.evaluations import evaluations_of
from overtone.pipelines.load import load_pipeline, public_model
from overtone.pipelines.pipeline import Pipeline
from overtone.pipelines.request import Request
from overtone.training.judging import data_of, open_evaluation, reading_of

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 8
"""images of each model that are shown, of the first seeds"""


@dataclass(frozen=True)
class Entry:
    """One model at one budget."""

    model: str
    budget: int | None
    """The function evaluations that were allowed. None stands for the model's own settings."""
    evaluations: float
    """The function evaluations that an image took."""
    seconds: float
    """The seconds that an image took, in a batch, on this machine."""
    report: Report
    images: Pixels = field(repr=False)
    """The images of the first seeds."""


@dataclass(frozen=True)
class Comparison:
    """Entries of all models, the first model's first."""

    entries: tuple[Entry, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """The models' names, in order."""
        return tuple(dict.fromkeys(entry.model for entry in self.entries))

    def of(self, model: str) -> tuple[Entry, ...]:
        """The entries of one model, by rising budget."""
        return tuple(entry for entry in self.entries if entry.model == model)

    def frame(self) -> pd.DataFrame:
        """A row for each model, budget and score: value, 95 % interval, bias of the number of
        images."""
        import pandas as pd

        return pd.DataFrame(list(self._rows()))

    def _rows(self) -> Iterator[dict[str, Any]]:
        for entry in self.entries:
            for name, score in entry.report.scores.items():
                low, high = score.interval or (None, None)
                yield _place(entry) | {
                    "score": name,
                    "value": score.value,
                    "low": low,
                    "high": high,
                    "bias": score.bias,
                }

    def differences(self) -> pd.DataFrame:
        """A row for each model but the first, budget and score: the model's score minus that of
        the first model at the same budget, with its 95 % interval. Images of the same seeds are
        compared beside the same real images; the bias of their number is taken off."""
        import pandas as pd

        return pd.DataFrame(list(self.paired()))

    def paired(self) -> Iterator[dict[str, Any]]:
        """The rows of `differences`."""
        first = {entry.budget: entry for entry in self.of(self.models[0])}
        for entry in self.entries:
            base = first.get(entry.budget)
            if base is None or entry is base:
                continue
            for name, columns in entry.report.columns.items():
                if name not in base.report.columns or columns.shape[0] < 4:
                    continue
                biased = measures()[name].biased
                score = difference(columns, base.report.columns[name], biased=biased)
                low, high = score.interval or (None, None)
                yield _place(entry) | {
                    "against": base.model,
                    "score": name,
                    "difference": score.value,
                    "low": low,
                    "high": high,
                }

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "entries": [_place(e) | {"report": e.report.as_json()} for e in self.entries],
            "differences": list(self.paired()),
        }

    def draw(self, path: str | Path) -> None:
        """One picture: the same seeds side by side, the scores with their intervals, the first of
        them against function evaluations and against seconds."""
        from overtone import storage
        from overtone.analysis.comparison_figure import comparison_figure

        with storage.new_file(Path(path)) as file:
            comparison_figure(self, file)


def _place(entry: Entry) -> dict[str, Any]:
    return {
        "model": entry.model,
        "budget": entry.budget,
        "evaluations": entry.evaluations,
        "seconds": entry.seconds,
    }


def compared_models(
    models: Mapping[str, Pipeline],
    evaluation: Evaluation,
    request_of: Callable[[Pipeline], Request],
    stream: Callable[[Pipeline, Request], Iterable[Any]],
    budgets: Sequence[int] = (),
    told: Callable[[Entry], None] = lambda entry: None,
) -> Comparison:
    """The comparison of pipelines through one evaluation.

    Arguments:
        request_of: what each is asked for; the same seeds and classes for all.
        stream: a pipeline's images of a request, batch by batch: this process's share.
        budgets: function evaluations per image, each kept as `Request.evaluations` says; if left
            out, each model's own settings.
        told: called with each entry as soon as it is there.

    Raises `OvertoneError`, before any image is made, for models of different images, and for a
    budget that a model can't keep.
    """
    _check_alike(models)
    asked = []
    for name, pipe in models.items():
        kept: Any = {} if len(budgets) > 1 else None
        for budget, request in _requests(pipe, request_of(pipe), budgets):
            taken = evaluated(evaluation.scores, pipe, request, kept)
            asked.append((name, budget, request, taken))
    entries = []
    for name, budget, request, taken in asked:
        pipe, clock = models[name], _Clock()
        batches = taken(clock.timed(stream(pipe, request)))
        report = evaluation(batches, pipe.made_with(request))
        entry = Entry(
            name,
            budget,
            evaluations_of(pipe, request),
            clock.seconds / max(clock.images, 1),
            report,
            _first_images(pipe, request),
        )
        told(entry)
        entries.append(entry)
    return Comparison(tuple(entries))


def _requests(
    pipe: Pipeline, request: Request, budgets: Sequence[int]
) -> Iterator[tuple[int | None, Request]]:
    if not budgets:
        yield None, request
    for budget in sorted(set(budgets)):
        yield budget, pipe.settled(replace(request, evaluations=budget))


def _check_alike(models: Mapping[str, Pipeline]) -> None:
    if len(models) < 2:
        raise OvertoneError("a comparison takes two models or more.")
    (name, first), *others = models.items()
    for other, pipe in others:
        for what, own, its in (
            ("px", first.resolution, pipe.resolution),
            ("channels", first.channels, pipe.channels),
            ("classes", first.num_classes, pipe.num_classes),
        ):
            if own != its:
                raise OvertoneError(
                    f"{name} makes images of {own} {what} and {other} of {its}: only models of the"
                    " same images can be compared."
                )


def _first_images(pipe: Pipeline, request: Request) -> Pixels:
    few = slice(0, SHOWN)
    part = request.part(few, _labels(pipe, request, few))
    return torch.cat([batch.images for batch in pipe.stream(part)])


def _labels(pipe: Pipeline, request: Request, few: slice) -> Any:
    labels = pipe.labels(request)
    return None if labels is None else labels[few]


def compare(
    models: Mapping[str, Pipeline | str] | Sequence[str],
    data: str | None = None,
    seeds: Sequence[int] = range(500),
    *,
    class_labels: Any = None,
    guidance_scale: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
    evaluations: Sequence[int] = (),
    batch_size: int = 64,
    scores: Sequence[str] = (),
    extractor: str = "classifier",
    real_images: int = 10_000,
    replicates: int | None = None,
) -> Comparison:
    """Compare models on the same seeds, each at the same budgets.

    Arguments:
        models: pipelines, or what `load_pipeline` opens, by the names that they are shown by; or a
            list of what it opens. The others are compared with the first.
        data: the real images; if left out, the data that the first model was trained on.
        seeds, class_labels, guidance_scale, guidance_interval, batch_size: as for a pipeline.
        evaluations: function evaluations per image that each model is given: the sampler that was
            fitted for as many, or its own with as many steps as they allow, which is said. If left
            out, each model keeps its own settings.
        scores, extractor, real_images, replicates: as for `overtone evaluate`.

    Raises `OvertoneError` for models of different images, and for what `overtone evaluate` refuses.
    """
    opened = _opened(models)
    (name, first), *_ = opened.items()
    given = models[name] if isinstance(models, Mapping) else models[0]
    place = given if isinstance(given, str) else ""
    evaluation = open_evaluation(
        data or data_of(first, place),
        first.resolution,
        first.channels,
        len(seeds),
        first.num_classes,
        first.class_names,
        extractor=features_by_name(extractor),
        real_images=real_images,
        scores=scores_by_name(scores) if scores else None,
        replicates=replicates,
        reading=reading_of(first, place),
    )
    request = Request(seeds, class_labels, guidance_scale, guidance_interval, batch_size=batch_size)
    return compared_models(
        opened, evaluation, lambda _: request, lambda pipe, asked: pipe.stream(asked), evaluations
    )


def _opened(models: Mapping[str, Pipeline | str] | Sequence[str]) -> dict[str, Pipeline]:
    if not isinstance(models, Mapping):
        models = dict(zip(public_names(models), models, strict=True))
    if not models:
        raise OvertoneError("a comparison takes two models or more.")
    return {
        name: load_pipeline(model) if isinstance(model, str) else model
        for name, model in models.items()
    }


class _Clock:
    """The seconds that sampling takes, without what is done with the images."""

    def __init__(self) -> None:
        self.seconds, self.images = 0.0, 0

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        batches = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(batches, None)  # its images are on the host: nothing is left to wait for
            self.seconds += time.perf_counter() - began
            if batch is None:
                return
            self.images += len(batch.seeds)
            yield batch


def public_names(models: Sequence[str]) -> list[str]:
    """Names of models as they may be published, each once: "a", "a (2)"."""
    names: list[str] = []
    for model in models:
        name = public_model(model)
        same = sum(n == name or n.startswith(f"{name} (") for n in names)
        names.append(f"{name} ({same + 1})" if same else name)
    return names
