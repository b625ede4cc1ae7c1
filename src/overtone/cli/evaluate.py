"""`overtone evaluate MODEL|IMAGES`: how good a model's images are, beside real ones."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from overtone.cli.model import check_first, is_images, saved_options
from overtone.cli.options import parse
from overtone.cli.sample import Sampling, parse_seeds
from overtone.errors import OvertoneError
from overtone.launch import processes
from overtone.ranges import Channels, Count, Size

if TYPE_CHECKING:
    from overtone.metrics.evaluate import Evaluation
    from overtone.pipelines.pipeline import Pipeline


SEEDS = "0-499"
"""the seeds of the images that are evaluated, where nothing is said"""


@dataclass(frozen=True)
class Judging:
    """What images are compared with, and how; shared by `evaluate` and `analyze guidance`."""

    data: str | None = None
    """the real images; if left out, those that a run here was trained on, or, of a saved model, the
    data set by its name, if it is one of Overtone's own"""
    skip_bad_images: bool = False
    """leave out images that can't be read or are too small, instead of stopping"""
    extractor: Literal["classifier", "inception"] = "classifier"
    """whose features: a classifier trained on the data, or Inception's, as FID (needs the extra
    fid)"""
    inception_weights: Path | None = None
    """torch-fidelity's weights of Inception; downloaded if left out"""
    real_images: Count = 10_000
    """real images to compare with, at most"""

    def evaluation_of(self, pipe: Pipeline, model: str, sampling: Sampling) -> Evaluation:
        """The evaluation of a model's images."""
        from overtone.data.names import is_known

        data = self.data or _data_of_run(model)
        if data is None and not is_known(pipe.data):
            # A path that a downloaded file names is not followed.
            known = f"'{pipe.data}'" if pipe.data else "something that was not saved with it"
            raise OvertoneError(f"pass --data: the model was trained on {known}.")
        return self.evaluation(
            data or pipe.data,
            pipe.resolution,
            pipe.channels,
            len(parse_seeds(sampling.seeds)),
            pipe.num_classes,
            pipe.class_names,
        )

    def evaluation(
        self,
        data: str,
        resolution: int,
        channels: int,
        asked: int,
        num_classes: int = 0,
        class_names: Sequence[str] = (),
    ) -> Evaluation:
        """The evaluation of `asked` images of some size."""
        from overtone.data import held_out, open_data
        from overtone.metrics import Evaluation, Extractor, InceptionExtractor
        from overtone.metrics.evaluate import check_counts
        from overtone.training.classifier import check_classes, classifier_of

        skip, among = self.skip_bad_images, processes()
        real = open_data(data, resolution, channels, skip_bad=skip)
        if num_classes not in (0, real.num_classes):
            raise OvertoneError(
                f"the model has {num_classes} classes and {data} has {real.num_classes}:"
                " evaluate with the data that it was trained on."
            )
        names = tuple(real.class_names)
        if class_names and names and tuple(class_names) != names and among.is_main:
            print(
                f"the classes of {data} have other names, or another order, than the model's"
                f" ({', '.join(names[:3])}, ... and {', '.join(class_names[:3])}, ...): what is"
                " recognised is counted by their numbers.",
                file=sys.stderr,
            )
        used = min(len(real), self.real_images)
        extractor: Extractor
        if self.extractor == "inception":
            extractor, test = InceptionExtractor(self.inception_weights), None
            check_counts(used, asked)
            if asked < extractor.dims and among.is_main:
                print(
                    f"{asked} images are fewer than the {extractor.dims} features: distances of so"
                    " few mean little. Published FIDs are of 50,000 (--seeds 0-49999 --real-images"
                    " 50000).",
                    file=sys.stderr,
                )
        else:
            check_classes(real, data)
            check_counts(used, asked)
            extractor = classifier_of(data, resolution, channels, skip_bad=skip)
            test = held_out(data, resolution, channels, skip_bad=skip)
        return Evaluation(extractor, real, test, self.real_images, among)


@dataclass(frozen=True)
class Options:
    model: tyro.conf.Positional[str]
    """a saved pipeline, a run's directory, a repository of the Hub; or images (folder, zip, hf:)"""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Sampling(SEEDS)
    )
    judging: Annotated[Judging, tyro.conf.arg(name="")] = field(default_factory=Judging)
    resolution: Size | None = None
    """The height and width at which a folder of images is evaluated. A model has its own."""
    channels: Channels | None = None
    """The number of channels of a folder of images, 3 if left out. A model has its own."""
    out: Path | None = None
    """a JSON file to write the result to"""


def main(arguments: Sequence[str]) -> None:
    check_first(arguments, "evaluate")
    default = Options(tyro.MISSING, Sampling(SEEDS, opening=saved_options(arguments)))
    options = parse(Options, "evaluate", __doc__, arguments, default=default)
    from overtone import storage

    if options.out is not None and options.out.is_dir():
        raise OvertoneError(f"--out is a file, and {options.out} is a directory.")
    result = evaluate(options)
    if not processes().is_main:
        return
    try:  # first, so that a full disk does not lose it
        print(json.dumps(result, indent=2), flush=True)
    finally:  # as well where whoever reads it has seen enough
        if options.out is not None:
            storage.write_json(options.out, result)


def evaluate(options: Options) -> dict:
    """The report, with what the images were made with."""
    from overtone.data import open_data

    judging, among = options.judging, processes()
    batches: Iterator
    if is_images(options.model):
        if judging.data is None or options.resolution is None:
            raise OvertoneError("images need --data and --resolution beside it.")
        if useless := _given(options.sampling):
            raise OvertoneError(
                f"{', '.join(useless)}: {options.model} holds images, which no model has to make."
            )
        size = options.resolution
        channels = 3 if options.channels is None else options.channels
        fakes = open_data(options.model, size, channels, skip_bad=judging.skip_bad_images)
        mine = among.share(range(len(fakes)))
        batches = ((fakes.fetch(mine[at : at + 256])[0], None) for at in range(0, len(mine), 256))
        made: dict = {"images": options.model, "resize_rule": fakes.resize_rule}
        evaluation = judging.evaluation(judging.data, size, channels, len(fakes))
    else:
        if options.resolution is not None or options.channels is not None:
            raise OvertoneError(
                "--resolution and --channels are those of a folder of images: a model has its own."
            )
        pipe = options.sampling.open(options.model)
        request = options.sampling.request(pipe)
        batches = ((b.images, b.class_labels) for b in options.sampling.stream(pipe, request))
        made = options.sampling.facts(pipe, options.model, request)
        evaluation = judging.evaluation_of(pipe, options.model, options.sampling)
    return dataclasses.asdict(evaluation(batches, made))


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


def _data_of_run(name: str) -> str | None:
    """The images that a run on this machine was trained on, as its own recipe says."""
    from overtone import storage
    from overtone.data.latents import is_latents

    file = Path(name).expanduser() / "recipe.json"
    data = storage.read_json(file, dict).get("data") if file.exists() else None
    return None if data is None or is_latents(data) else data
