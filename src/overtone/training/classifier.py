"""The classifier that the metrics look through, trained on the data it is to judge, and cached."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from overtone import settings, storage
from overtone.data import ImageData, held_out, open_data
from overtone.errors import OvertoneError
from overtone.launch import processes
from overtone.metrics import ClassifierExtractor
from overtone.networks import Classifier, ClassifierConfig
from overtone.training.loop import Reporting, Trainer, Training
from overtone.training.objectives import ClassificationObjective
from overtone.training.rundir import find_checkpoint


@dataclass(frozen=True)
class ClassifierRecipe:
    """Settings of the classifier of a data set."""

    data: str
    network: ClassifierConfig
    objective: ClassificationObjective = field(default_factory=ClassificationObjective)
    training: Training = field(
        default_factory=lambda: Training(
            total_images=60_000,
            batch_size=128,
            lr=2e-3,
            lr_rampup_images=2_000,
            lr_rampdown_images=40_000,
            ema_halflife_images=2_000,
            ema_rampup_ratio=None,
            precision="fp32",
        )
    )


def classifier_of(
    data: str, resolution: int, channels: int, *, skip_bad: bool = False
) -> ClassifierExtractor:
    """The classifier trained on `data`: from the cache, or trained now.

    Raises `OvertoneError` for data without classes.
    """
    images = open_data(data, resolution, channels, skip_bad=skip_bad)
    if not images.num_classes:
        raise OvertoneError(
            f"{data} has no classes, and the metrics are computed on a classifier of the data:"
            " evaluate with data that is sorted into sub-folders, or with --extractor inception."
        )
    config = ClassifierConfig(
        resolution=resolution,
        channels=channels,
        num_classes=images.num_classes,
        widths=_widths(resolution),
    )
    recipe = ClassifierRecipe(data, config)
    identity: dict[str, Any] = settings.dump(recipe) | {"images": images.fingerprint}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    name = Path(data).name.replace(":", "-")
    folder = storage.cache_directory() / "classifiers" / f"{name}-{resolution}px-{digest}"
    test = held_out(data, resolution, channels, skip_bad=skip_bad)
    among = processes()
    if not folder.exists() and among.is_main:
        print(f"training the classifier of {data} that images are judged by", file=sys.stderr)
        run = folder.with_name(f"{folder.name}.run")
        _trainer(recipe, images, test).run(run)
        shutil.copytree(find_checkpoint(run) / "network", run / "network", dirs_exist_ok=True)
        (run / "network").rename(folder)
        shutil.rmtree(run)
    among.wait()
    return ClassifierExtractor.from_pretrained(folder)


def _widths(resolution: int) -> tuple[int, ...]:
    if resolution <= 16:
        return (32, 64, 128)
    # From 64 px on, half of the time would go into 32 channels at full size.
    return (32, 64, 128, 128) if resolution <= 32 else (16, 32, 64, 128, 128)


def _trainer(recipe: ClassifierRecipe, data: ImageData, test: ImageData | None) -> Trainer:
    torch.manual_seed(recipe.training.seed)
    total = recipe.training.total_images

    def export(network: Any, folder: Path) -> None:
        (folder / "network").mkdir()
        network.write_into(folder / "network")

    return Trainer(
        model=Classifier(recipe.network).to_fast_layout(),
        objective=recipe.objective,
        data=data,
        held_out=test,
        identity=settings.dump(recipe),
        training=recipe.training,
        reporting=Reporting(report_images=5_000, checkpoint_images=total, keep=1),
        export=export,
        alone=True,
    )
