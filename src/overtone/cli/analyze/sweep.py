"""A sweep: scores of a model's images at several values of one setting, on the same seeds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overtone.cli.evaluate import Judging
from overtone.cli.sample import Sampling
from overtone.errors import OvertoneError, unknown
from overtone.launch import processes
from overtone.ranges import Finite

if TYPE_CHECKING:
    from overtone.metrics.evaluate import Evaluation, Report
    from overtone.pipelines.pipeline import Pipeline


def _nothing(pipe: Pipeline) -> None:
    """Leaves the pipeline as it is."""


@dataclass(frozen=True)
class Point:
    """One value of the setting."""

    value: Finite
    """The value on the figure's axis."""
    words: str
    """The value in words, such as "eta 0.2"."""
    sampling: Sampling
    """The settings that the pipeline is asked with."""
    prepare: Callable[[Any], None] = _nothing
    """The change that is made to the pipeline before it is asked."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else is known of the point, as JSON."""


@dataclass(frozen=True)
class Sweep:
    """What is swept, how its images are judged and where the figure goes."""

    setting: str
    """The label of the axis."""
    model: str
    judging: Judging
    drawn: Sequence[str]
    """The scores that are drawn, by their names in a report."""
    out: Path

    def run(self, pipe: Pipeline, points: Sequence[Point]) -> None:
        """Evaluate the pipeline at each point and draw the scores. The data are written after each
        point, so that little is lost where it ends early."""
        from overtone import storage

        drawn, reports, rows = check_drawn(self.drawn), [], []
        evaluation = self.judging.evaluation_of(pipe, self.model, points[0].sampling)
        _check_computed(drawn, evaluation)
        for point in points:
            point.prepare(pipe)
            request = point.sampling.request(pipe)
            made = point.sampling.facts(pipe, self.model, request)
            found = evaluation(self.judging.images_of(point.sampling, pipe, request), made)
            reports.append(self.judging.report(found))
            rows.append({"value": point.value, **point.facts, **reports[-1].as_json()})
            if processes().is_main:
                print(f"{point.words}: {_words(reports[-1], drawn)}", file=sys.stderr)
                storage.write_json(self.out.with_suffix(".json"), rows)
        if processes().is_main:
            self._draw([point.value for point in points], reports, drawn)

    def _draw(self, values: Sequence[float], reports: Sequence[Report], drawn: list[str]) -> None:
        from overtone import storage
        from overtone.analysis.figures.sweeps import Curve, sweep_figure
        from overtone.metrics.scores import measures

        curves = [
            Curve(
                measures()[name],
                [report.value(name) for report in reports],
                [report.interval(name) for report in reports],
                getattr(reports[0], f"real_{name}", None),
            )
            for name in drawn
        ]
        first, best = curves[0], curves[0].best
        word = "lowest" if first.measure.lower_is_better else "highest"
        print(
            f"{self.out}: the {word} {first.measure.title},"
            f" {first.measure.shown(first.scores[best])}, is at {self.setting} {values[best]:g}"
        )
        with storage.new_file(self.out) as file:
            sweep_figure(self.setting, values, curves, file)


def check_drawn(names: Sequence[str]) -> list[str]:
    """The scores that are to be drawn, each once. Raises `OvertoneError` for one that is none."""
    from overtone.metrics.scores import measures

    names = [name.replace("-", "_") for name in names]
    for name in names:
        if name not in measures():
            raise unknown("score to draw", name, measures())
    if not names:
        raise OvertoneError(f"--drawn takes one score or more of {', '.join(measures())}.")
    return list(dict.fromkeys(names))


def _check_computed(names: Sequence[str], evaluation: Evaluation) -> None:
    """Raises `OvertoneError` for a score that the evaluation does not compute."""
    computed = [measure.name for score in evaluation.scores for measure in score.measures]
    for name in names:
        if name not in computed:
            raise OvertoneError(
                f"--drawn {name}: it is not among the scores that are computed, which are"
                f" {', '.join(computed)}: name it in --scores, too."
            )


def distinct(values: Sequence[float], option: str) -> list[float]:
    """The values in rising order. Raises `OvertoneError` for fewer than two different ones."""
    if len(set(values)) < 2:
        raise OvertoneError(f"{option} takes two different {option.lstrip('-')} or more.")
    return sorted(set(values))


def _words(report: Report, drawn: Sequence[str]) -> str:
    """The scores that are drawn, with their intervals, and the class accuracy."""
    from overtone.metrics.scores import measures

    said = []
    for name in dict.fromkeys((*drawn, "class_accuracy")):
        if name not in report.scores:
            continue
        measure, ends = measures()[name], report.interval(name)
        interval = "" if ends is None else " ({} to {})".format(*map(measure.shown, ends))
        said.append(f"{measure.title} {measure.shown(report.value(name))}{interval}")
    return ", ".join(said)
