"""What a model's images are judged by: the real images, the features, the scores."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from overtone import settings, storage
from overtone.data.batches import holds_images
from overtone.data.images import ImageData
from overtone.data.latents import is_latents
from overtone.data.names import is_known
from overtone.data.open import open_data
from overtone.data.reading import PLAIN
from overtone.data.rules import Reading
from overtone.errors import OvertoneError
from overtone.launch import processes
from overtone.metrics.cache import features_of, parts_of
from overtone.metrics.extractors import ClassifierFeatures, FeatureSettings
from overtone.metrics.parts import SPATIAL, VECTORS
from overtone.metrics.real import LEAST_REAL, check_counts
from overtone.metrics.reference import Reference, is_reference, load_reference
from overtone.metrics.sample import Sample
from overtone.metrics.scores import Score
from overtone.pipelines.pipeline import Pipeline
from overtone.runs import RECIPE_FILE
from overtone.sizes import Resolution
from overtone.training.material import images_of


def open_evaluation(
    data: str,
    resolution: Resolution,
    channels: int,
    asked: int,
    num_classes: int = 0,
    class_names: Sequence[str] = (),
    *,
    extractor: FeatureSettings | None = None,
    real_images: int = 10_000,
    scores: Sequence[Score] | None = None,
    replicates: int | None = None,
    reading: Reading = PLAIN,
) -> Any:
    """The evaluation of `asked` images of some size beside those of `data`, which may be a file of
    published statistics.

    Raises `OvertoneError`, before a classifier is trained, for data that it can't be.
    """
    from overtone.metrics import Evaluation

    among, extractor = processes(), extractor or ClassifierFeatures()
    reference = load_reference(data) if is_reference(data) else None
    shape = resolution, channels
    if reference is not None and not holds_images(data):
        if extractor.needs_classes:
            raise OvertoneError(
                f"{data} holds statistics of features, and no images that a classifier could be"
                " trained on: choose the extractor that they are of (--extractor inception, say)."
            )
        check_counts(LEAST_REAL, asked)
        found = extractor.open_for(data, *shape, reading)
        return Evaluation(
            found, None, None, real_images, among, scores=scores, replicates=replicates,
            reference=reference, shape=shape, asked=asked,
        )  # fmt: skip
    real = open_data(data, *shape, reading=reading)
    _check_classes(data, real, num_classes, class_names)
    used = min(len(real), real_images)
    if extractor.needs_classes:  # before it is trained
        pkgutil.resolve_name("overtone.training.classifier:check_classes")(real, data)
        check_counts(used, asked, scores or ())
    found = extractor.open_for(data, *shape, reading)
    check_counts(used, asked, scores or ())
    if reference is not None and len(reference.mean) != found.dims:
        reference = None  # of other features than those that its images are compared by
    test = None
    if extractor.needs_classes:
        _, test = images_of(data, *shape, reading=reading, show=False)
    elif asked < found.dims and among.is_main:
        print(
            f"{asked} images are fewer than the {found.dims} features: distances of so few mean"
            " little. Published FIDs are of 50,000 (--seeds 0-49999 --real-images 50000).",
            file=sys.stderr,
        )
    return Evaluation(
        found, real, test, real_images, among, scores=scores, replicates=replicates,
        reference=reference, asked=asked,
    )  # fmt: skip


def statistics_of(
    data: str,
    resolution: Resolution,
    channels: int,
    extractor: FeatureSettings,
    *,
    images: int | None = None,
    reading: Reading = PLAIN,
) -> Reference:
    """The statistics of a data set's features, of `images` of them if given.

    Raises `OvertoneError` for data without an end, and for a classifier, which is trained on the
    very data and would have to come with them.
    """
    if extractor.needs_classes:
        raise OvertoneError(
            f"--extractor: a {extractor.kind} is trained on the data, and their statistics are of"
            " no use without it: choose inception, dinov2 or random."
        )
    real = open_data(data, resolution, channels, reading=reading)
    if real.endless and images is None:
        raise OvertoneError(f"{data} has no end: say of how many images, --images.")
    found = extractor.open_for(data, resolution, channels, reading)
    chosen = real.spread(min(images or len(real), len(real)))
    if len(chosen) < 2:
        raise OvertoneError(f"{data} has {len(chosen)} images: a covariance takes 2 or more.")
    there = parts_of(found, resolution, channels)
    parts = [part for part in (VECTORS, SPATIAL) if part in there]
    sample = Sample(features_of(found, real, chosen, parts, processes()), 0)
    moments = {part: sample.whole(part) for part in parts}
    spatial = moments.get(SPATIAL)
    return Reference(
        moments[VECTORS].mean[0],
        moments[VECTORS].covariance[0],
        None if spatial is None else spatial.mean[0],
        None if spatial is None else spatial.covariance[0],
        count=len(chosen),
        extractor=found.name,
        digest=found.digest,
        real=real.name,
        real_digest=real.fingerprint,
        resize_rule=real.resize_rule,
    )


def data_of(pipe: Pipeline, model: str) -> str:
    """The images that a model was trained on: those of a run on this machine, as its own recipe
    says, or a data set by its name. Raises `OvertoneError` where they are not known."""
    data = _recipe_of(model).get("data")
    if data and not is_latents(data):
        return data
    if is_known(pipe.data):
        return pipe.data
    # A path that a downloaded file names is not followed.
    known = f"'{pipe.data}'" if pipe.data else "something that was not saved with it"
    raise OvertoneError(f"pass --data: the model was trained on {known}.")


def reading_of(pipe: Pipeline, model: str) -> Reading:
    """How the pictures were read that a model was trained on, as the recipe of its run says, or the
    model itself."""
    recipe = _recipe_of(model)
    names = {"background": "background", "crop": "crop", "skip_bad": "skip_bad_images"}
    saved = {own: pipe.training[own] for own in ("background", "crop") if own in pipe.training}
    # What the recipe of a student leaves out is its teacher's, and was saved with the model.
    chosen = {own: recipe.get(there) for own, there in names.items()}
    found = saved | {own: value for own, value in chosen.items() if value is not None}
    try:
        return settings.load(Reading, found, f"the pictures of {model or 'this model'}")
    except ValueError as error:
        raise OvertoneError(f"{model}: {error}.") from None


def _recipe_of(model: str) -> dict[str, Any]:
    file = Path(model).expanduser() / RECIPE_FILE
    return storage.read_json(file, dict) if file.exists() else {}


def _check_classes(
    data: str, real: ImageData, num_classes: int, class_names: Sequence[str]
) -> None:
    """Raises `OvertoneError` for real images of other classes than a model's, and says where they
    are called otherwise."""
    if num_classes not in (0, real.num_classes):
        raise OvertoneError(
            f"the model has {num_classes} classes and {data} has {real.num_classes}:"
            " evaluate with the data that it was trained on."
        )
    names = tuple(real.class_names)
    if class_names and names and tuple(class_names) != names and processes().is_main:
        print(
            f"the classes of {data} have other names, or another order, than the model's"
            f" ({', '.join(names[:3])}, ... and {', '.join(class_names[:3])}, ...): the"
            " class accuracy is counted by their numbers.",
            file=sys.stderr,
        )
