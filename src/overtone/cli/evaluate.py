"""`overtone evaluate MODEL|IMAGES` scores a model's images, or a folder's, beside real ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from overtone.cli.model import check_first, is_images, of_recipe, saved_options
from overtone.cli.options import parse
from overtone.cli.sample import Sampling
from overtone.data.rules import Crop, Reading
from overtone.errors import OvertoneError, counted
from overtone.launch import processes
from overtone.pipelines.seeds import seeds_of
from overtone.ranges import Channels, Count, Replicates, Size
from overtone.sizes import Resolution

if TYPE_CHECKING:
    from overtone.metrics.evaluate import Evaluation, Report
    from overtone.metrics.memorisation import Nearest
    from overtone.pipelines.pipeline import Pipeline
    from overtone.pipelines.request import Request


SEEDS = "0-499"
"""the seeds of the images that are evaluated, by default"""


@dataclass(frozen=True)
class Judging:
    """What images are compared with, and how; shared by all commands that evaluate."""

    data: str | None = None
    """The real images: a folder, a zip, or any other data set. If left out, they are the model's
    training data, if its run is on this machine or if they are one of Overtone's own sets."""
    skip_bad_images: bool = False
    """Leave out images that can't be read or are too small, instead of stopping."""
    background: str | None = None
    """The colour that transparent pictures are laid on. If left out, it is that of the run, or
    white."""
    crop: Crop | None = None
    """How a picture is cropped: fit, square or none, as in training. If left out, it is as it was
    for the run, or fit."""
    extractor: str = "classifier"
    """The network whose features are compared: a classifier that is trained on the data; inception,
    as for the FID (needs the extra fid); dinov2 (needs the extra dinov2); or random, an untrained
    network, as a last resort."""
    extractor_weights: str | None = None
    """The weights of Inception (torch-fidelity's file) or of DINOv2 (a directory, repository or
    file), which are downloaded if this is left out."""
    real_images: Count = 10_000
    """The number of real images to compare with, at most."""
    scores: tuple[str, ...] = ()
    """The scores that are computed: frechet, spatial-frechet, kernel, inception-score,
    precision-recall, density-coverage, class-accuracy, memorisation, solver-error. If left out, all
    that the extractor allows are computed, except the last two, which take longer."""
    replicates: Replicates | None = None
    """The number of random halves of the images that the 95 % intervals come from. If left out, it
    is 200, or 40 where an image has 512 features or more. 0 computes no intervals."""
    extrapolate: bool = False
    """Correct biased scores, such as the Fréchet distance, for the number of images: report the
    value that infinitely many images would have."""

    @property
    def reading(self) -> Reading:
        """How the real images are read."""
        try:
            return Reading(self.skip_bad_images, self.background or "white", self.crop or "fit")
        except ValueError as error:
            raise OvertoneError(f"{error}.") from None

    def chosen(self) -> tuple[Any, ...] | None:
        """The scores by their names; None for those that the features allow. Raises
        `OvertoneError` for a name that is none."""
        from overtone.metrics.scores import scores_by_name

        return scores_by_name(self.scores) if self.scores else None

    def evaluation_of(self, pipe: Pipeline, model: str, sampling: Sampling) -> Evaluation:
        """The evaluation of a model's images."""
        from overtone.training.judging import data_of, reading_of

        usual = reading_of(pipe, model)
        own = replace(
            self,
            background=self.background or usual.background,
            crop=self.crop or usual.crop,
            skip_bad_images=self.skip_bad_images or usual.skip_bad,
        )
        return own.evaluation(
            self.data or data_of(pipe, model),
            pipe.resolution,
            pipe.channels,
            len(seeds_of(sampling.seeds)),
            pipe.num_classes,
            pipe.class_names,
        )

    def images_of(
        self, sampling: Sampling, pipe: Pipeline, request: Request
    ) -> Iterable[tuple[Any, ...]]:
        """The images of a model as an evaluation takes them. Raises `OvertoneError` where a score
        needs more of them than there is."""
        from overtone.metrics.solver import evaluated

        taken = evaluated(self.chosen() or (), pipe, request)
        return taken(sampling.stream(pipe, request))

    def report(self, report: Report) -> Report:
        """A report as it was asked for."""
        return report.extrapolated() if self.extrapolate else report

    def evaluation(
        self,
        data: str,
        resolution: Resolution,
        channels: int,
        asked: int,
        num_classes: int = 0,
        class_names: Sequence[str] = (),
    ) -> Evaluation:
        """The evaluation of `asked` images of some size."""
        from overtone.metrics.extractors import features_by_name
        from overtone.training.judging import open_evaluation

        return open_evaluation(
            data,
            resolution,
            channels,
            asked,
            num_classes,
            class_names,
            extractor=features_by_name(self.extractor, self.extractor_weights),
            real_images=self.real_images,
            scores=self.chosen(),
            replicates=self.replicates,
            reading=self.reading,
        )


JudgingOptions = Annotated[Judging, tyro.conf.arg(name="scoring"), tyro.conf.OmitArgPrefixes]
"""The same as a group of options whose names have no prefix."""


@dataclass(frozen=True)
class Options:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A saved pipeline, a run's directory, a recipe that was trained into runs/, or a repository of
    the Hub; or images: a folder, a zip, an .npz, a parquet file, hf:..."""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Sampling(SEEDS)
    )
    judging: JudgingOptions = field(default_factory=Judging)
    resolution: Size | None = None
    """The height and width at which a folder of images is evaluated. A model has its own."""
    channels: Channels | None = None
    """The number of channels of a folder of images, 3 if left out. A model has its own."""
    out: Path | None = None
    """A JSON file that the result is written to."""


def main(arguments: Sequence[str]) -> None:
    check_first(arguments, "evaluate")
    arguments = [*map(of_recipe, arguments[:1]), *arguments[1:]]
    default = Options(tyro.MISSING, Sampling(SEEDS, opening=saved_options(arguments)))
    options = parse(Options, "evaluate", __doc__, arguments, default=default)
    from overtone import storage

    if options.out is not None and options.out.is_dir():
        raise OvertoneError(f"--out is a file, and {options.out} is a directory.")
    report = evaluate(options)
    if not processes().is_main:
        return
    result = report.as_json()
    try:  # first, so that a full disk does not lose it
        print(json.dumps(result, indent=2), flush=True)
    finally:  # as well where whoever reads it has seen enough
        if options.out is not None:
            storage.write_json(options.out, result)
    show(report)
    if report.nearest is not None:
        place = options.out or Path("evaluation.json")
        _show_nearest(report.nearest, place.with_name(f"{place.stem}-nearest.png"))


def show(report: Report) -> None:
    """A table of the scores, on the error stream."""
    from rich.console import Console
    from rich.table import Table

    from overtone.metrics.scores import measures

    table = Table(box=None, header_style="bold")
    for title in ("score", "value", "95 % interval", "bias (finite N)"):
        table.add_column(title, justify="left" if title == "score" else "right")
    for name, score in report.scores.items():
        measure, ends, bias = measures()[name], score.interval, score.bias
        table.add_row(
            measure.title,
            measure.shown(score.value),
            "too few images" if ends is None else " to ".join(map(measure.shown, ends)),
            "" if not bias else measure.shown(bias),
        )
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(table)
    evaluations = report.made_with.get("evaluations")
    if evaluations is not None:
        each = counted(evaluations, "function evaluation")
        console.print(f" {counted(report.images, 'image')}, {each} each")


def _show_nearest(nearest: Nearest, path: Path) -> None:
    """Write the images that are nearest to single training images beside these."""
    from overtone import storage

    with storage.new_file(path) as file:
        nearest.picture(8).save(file, "PNG")
    print(f"{path}: images, the nearest and the second nearest training image", file=sys.stderr)


def evaluate(options: Options) -> Report:
    """The report, with what the images were made with."""
    from overtone.data import open_data
    from overtone.data.open import public_name

    judging = options.judging
    if is_images(options.model):
        if judging.data is None or options.resolution is None:
            raise OvertoneError("to score images, give the real ones, --data, and --resolution.")
        if useless := _given(options.sampling):
            raise OvertoneError(
                f"{', '.join(useless)}: {options.model} holds images, and these options are for"
                " models: leave them out."
            )
        size = options.resolution
        channels = 3 if options.channels is None else options.channels
        fakes = open_data(options.model, size, channels, reading=judging.reading)
        made: dict = {"images": public_name(options.model), "resize_rule": fakes.resize_rule}
        made["digest"] = fakes.fingerprint
        evaluation = judging.evaluation(judging.data, size, channels, len(fakes))
        return judging.report(evaluation.of_data(fakes, made))
    if options.resolution is not None or options.channels is not None:
        raise OvertoneError(
            "--resolution and --channels are those of a folder of images: a model has its own."
        )
    pipe = options.sampling.open(options.model)
    request = options.sampling.request(pipe)
    made = options.sampling.facts(pipe, options.model, request)
    batches = judging.images_of(options.sampling, pipe, request)
    evaluation = judging.evaluation_of(pipe, options.model, options.sampling)
    return judging.report(evaluation(batches, made))


def _given(sampling: Sampling) -> list[str]:
    """The options of sampling and of opening a model that were given, by name."""
    default = Sampling(SEEDS)
    parts = (sampling, default), (sampling.opening, default.opening)
    return [
        f"--{name.replace('_', '-')}"
        for own, other in parts
        for name, value in vars(own).items()
        if name != "opening" and value != getattr(other, name)
    ]
