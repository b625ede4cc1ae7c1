"""The classifier that the metrics look through, trained on the data it is to judge, and cached."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from overtone import storage
from overtone.data.images import ImageData
from overtone.data.reading import PLAIN
from overtone.data.rules import Reading
from overtone.denoisers.denoiser import Images
from overtone.errors import OvertoneError
from overtone.launch import processes
from overtone.metrics.classifier import ClassifierExtractor
from overtone.networks.classifier import Classifier
from overtone.networks.configs.classifier import ClassifierConfig
from overtone.processes.noise import SeededNoise
from overtone.runs import find_checkpoint
from overtone.sizes import Resolution, shown, sides
from overtone.training.configs.classifier import ClassifierRecipe, Distortion
from overtone.training.loop import Trainer
from overtone.training.material import Material, images_of
from overtone.training.objectives import Batch, Objective
from overtone.training.progress import Progress
from overtone.training.task import Task

MOST_EPOCHS, SHORTEST = 100, 5_000
"""how many times each image is shown at most; how many are shown at least"""


def _shortened(recipe: ClassifierRecipe, images: int) -> ClassifierRecipe:
    """The recipe for few images, which are known by heart before the usual training is over."""
    plan = recipe.training
    length = max(SHORTEST, min(plan.total_images, MOST_EPOCHS * images))
    if length == plan.total_images:
        return recipe
    plan = replace(plan, total_images=length, lr_rampdown_images=2 * length // 3)
    return replace(recipe, training=plan)


def classifier_of(
    data: str, resolution: Resolution, channels: int, reading: Reading = PLAIN
) -> ClassifierExtractor:
    """The classifier trained on `data`: from the cache, or trained now.

    Raises `OvertoneError` for data of no class, or of one.
    """
    images, test = images_of(data, resolution, channels, reading=reading, show=False)
    check_classes(images, data)
    config = ClassifierConfig(
        resolution=resolution,
        channels=channels,
        num_classes=images.num_classes,
        widths=_widths(min(sides(resolution))),
    )
    recipe = _shortened(ClassifierRecipe(data, config, reading=reading), len(images))
    identity = recipe.identity() | {"images": images.fingerprint}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    name = Path(data).name.replace(":", "-")
    folder = (
        storage.cache_directory()
        / "classifiers"
        / f"{name}-{shown(resolution).replace(' ', '')}px-{digest}"
    )
    among = processes()
    if not folder.exists() and among.is_main:
        print(f"training the classifier of {data} that images are judged by", file=sys.stderr)
        run = folder.with_name(f"{folder.name}.run")
        Trainer.of(recipe, material=Material(images, test, None)).run(run)
        shutil.copytree(find_checkpoint(run) / "network", run / "network", dirs_exist_ok=True)
        (run / "network").rename(folder)
        shutil.rmtree(run)
    among.wait()
    return ClassifierExtractor.from_pretrained(folder)


def check_classes(images: ImageData, name: str) -> None:
    """Raises `OvertoneError` for data that no classifier can be trained on."""
    if not images.num_classes:
        raise OvertoneError(
            f"{name} has no classes, and the metrics are computed on a classifier of the data:"
            " evaluate with data that is sorted into sub-folders, or with --extractor inception"
            " or dinov2, or, as a last resort, random."
        )
    if images.num_classes == 1:
        raise OvertoneError(
            f"{name} has one class, and a classifier has nothing to tell apart there, so that its"
            " features mean nothing: evaluate with data of several classes, or with --extractor"
            " inception."
        )


def _widths(resolution: int) -> tuple[int, ...]:
    if resolution <= 16:
        return (32, 64, 128)
    # From 64 px on, half of the time would go into 32 channels at full size.
    return (32, 64, 128, 128) if resolution <= 32 else (16, 32, 64, 128, 128)


class ClassifierTask(Task):
    """Training a classifier; a checkpoint's folder `network` is what it saves."""

    alone = True

    def __init__(
        self, recipe: ClassifierRecipe, *, material: Material | None = None, show: bool = True
    ) -> None:
        config = recipe.network
        self.data, self.held_out, _ = material or Material(
            *images_of(
                recipe.data,
                config.resolution,
                config.channels,
                share=recipe.held_out_share,
                reading=recipe.reading,
                show=show,
            ),
            None,
        )
        torch.manual_seed(recipe.training.seed)
        if self.data.num_classes != config.num_classes:
            raise OvertoneError(
                f"--network.num-classes is {config.num_classes}, but {self.data.name} has"
                f" {self.data.num_classes} classes."
            )
        self.model = config.build().to_fast_layout()
        self.objective = ClassificationObjective(recipe.objective)
        self.identity = recipe.identity()

    def export(self, average: nn.Module, folder: Path, progress: Progress) -> None:
        network: Any = average
        (folder / "network").mkdir()
        network.write_into(folder / "network")

    def opened(self, checkpoint: Path) -> Classifier:
        return Classifier.from_pretrained(checkpoint / "network")


@dataclass(frozen=True)
class ClassificationObjective(Objective):
    """Cross-entropy with label smoothing on images moved, turned and stretched a little.

    Each image is turned, stretched and moved as its `distortion` says, all uniform.
    """

    distortion: Distortion = field(default_factory=Distortion)

    def draw(self, x_0: Images, labels: Int[Tensor, " batch"], source: SeededNoise) -> Batch:
        own = self.distortion
        turn, wide, high, right, down = (
            (2 * source.uniform() - 1).float() for _ in range(5)
        )  # each in (-1, 1)
        angle = turn * math.radians(own.degrees)
        cos, sin = angle.cos(), angle.sin()
        wide, high = 1 + own.stretch * wide, 1 + own.stretch * high
        # grid_sample's coordinates span 2 across the image.
        rows = (cos * wide, -sin * high, 2 * own.shift * right)
        columns = (sin * wide, cos * high, 2 * own.shift * down)
        theta = torch.stack((torch.stack(rows, -1), torch.stack(columns, -1)), 1)
        grid = F.affine_grid(theta, list(x_0.shape), align_corners=False)
        moved = F.grid_sample(x_0, grid, padding_mode="border", align_corners=False)
        return {"images": moved, "labels": labels}

    def loss(
        self, model: nn.Module, batch: Batch, average: nn.Module | None = None
    ) -> Float[Tensor, " batch"]:
        logits = model(batch["images"]).float()
        smoothing = self.distortion.smoothing
        return F.cross_entropy(logits, batch["labels"], reduction="none", label_smoothing=smoothing)
