"""`overtone evaluate MODEL|IMAGES`: how good a model's images are, beside real ones."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from overtone.cli.options import parse
from overtone.cli.sample import Sampling, open_model, parse_seeds
from overtone.errors import OvertoneError
from overtone.launch import processes


@dataclass(frozen=True)
class Options:
    model: tyro.conf.Positional[str]
    """a saved pipeline, a run's directory, a repository of the Hub; or images (folder, zip, hf:)"""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Sampling(seeds="0-499")
    )
    data: str | None = None
    """the real images; the data that the model was trained on if left out"""
    resolution: int | None = None
    """at which a folder of images is evaluated; of a model, its own"""
    channels: int = 3
    """of a folder of images; of a model, its own"""
    skip_bad_images: bool = False
    """leave out images that can't be read or are too small, instead of stopping"""
    extractor: Literal["classifier", "inception"] = "classifier"
    """whose features: a classifier trained on the data, or Inception's, as FID (needs the extra
    fid)"""
    inception_weights: Path | None = None
    """torch-fidelity's weights of Inception; downloaded if left out"""
    real_images: int = 10_000
    """real images to compare with, at most"""
    out: Path | None = None
    """a JSON file to write the result to"""


def main(arguments: Sequence[str]) -> None:
    options = parse(Options, "evaluate", __doc__, arguments)
    from overtone import storage

    result = evaluate(options)
    if not processes().is_main:
        return
    if options.out is not None:
        storage.write_json(options.out, result)
    print(json.dumps(result, indent=2))


def evaluate(options: Options) -> dict:
    """The report, with what the images were made with."""
    from overtone import __version__, settings
    from overtone.data import held_out, open_data
    from overtone.data.open import NAMES
    from overtone.metrics import Evaluation, Extractor, InceptionExtractor
    from overtone.networks.network import digest_of
    from overtone.training.classifier import classifier_of

    skip, among = options.skip_bad_images, processes()
    if _is_images(options.model):
        if options.data is None or options.resolution is None:
            raise OvertoneError("images need --data and --resolution beside it.")
        size, channels, data = options.resolution, options.channels, options.data
        fakes = open_data(options.model, size, channels, skip_bad=skip)
        asked, mine = len(fakes), among.share(range(len(fakes)))
        batches: Iterator = (
            (fakes.fetch(mine[at : at + 256])[0], None) for at in range(0, len(mine), 256)
        )
        made: dict = {"images": options.model, "resize_rule": fakes.resize_rule}
        num_classes = 0
    else:
        pipe = open_model(options.model, options.sampling.checkpoint)
        own = _data_of_run(options.model) or pipe.data
        size, channels = pipe.network.config.resolution, pipe.network.config.channels
        if options.data is None and own == pipe.data and own not in NAMES:
            # A path that a downloaded file names is not followed.
            raise OvertoneError(f"pass --data: the model was trained on '{pipe.data}'.")
        data, num_classes = options.data or own, pipe.num_classes
        asked = len(parse_seeds(options.sampling.seeds))
        batches = ((b.images, b.class_labels) for b in options.sampling.stream(pipe))
        made = {"model": options.model, "precision": pipe.precision, "overtone": __version__}
        made |= {"training": pipe.training, "weights": digest_of(pipe.network)}
        made |= dataclasses.asdict(options.sampling)
        made["saved_sampler"] = settings.dump(pipe.sampler)
    real = open_data(data, size, channels, skip_bad=skip)
    if num_classes not in (0, real.num_classes):
        raise OvertoneError(
            f"the model has {num_classes} classes and {data} has {real.num_classes}:"
            " evaluate with the data that it was trained on."
        )
    extractor: Extractor
    if options.extractor == "inception":
        extractor, test = InceptionExtractor(options.inception_weights), None
        if asked < extractor.dims and among.is_main:
            print(
                f"{asked} images are fewer than the {extractor.dims} features: distances of so few"
                " mean little. Published FIDs are of 50,000 (--seeds 0-49999 --real-images 50000).",
                file=sys.stderr,
            )
    else:
        extractor = classifier_of(data, size, channels, skip_bad=skip)
        test = held_out(data, size, channels, skip_bad=skip)
    evaluation = Evaluation(extractor, real, test, options.real_images, among)
    return dataclasses.asdict(evaluation(batches, made))


def _data_of_run(name: str) -> str | None:
    """What a run on this machine was trained on, as its own recipe says."""
    from overtone import storage

    file = Path(name) / "recipe.json"
    return storage.read_json(file, dict).get("data") if file.exists() else None


def _is_images(name: str) -> bool:
    """Whether the name is that of images rather than of a model."""
    from overtone.data.files import SUFFIXES

    path = Path(name)
    if name.startswith("hf:") or path.is_file():
        return True
    if not path.is_dir() or any((path / own).exists() for own in ("pipeline.json", "run.json")):
        return False
    return any(f.suffix.lower() in SUFFIXES for f in path.rglob("*"))
