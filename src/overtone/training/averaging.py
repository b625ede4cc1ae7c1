"""Averages of a run's weights that are made afterwards, scored beside the one that the run used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from overtone.errors import OvertoneError
from overtone.networks.network import Network
from overtone.pipelines.pipeline import Pipeline
from overtone.runs import checkpoints_of, is_run, open_checkpoint
from overtone.training.best import Criterion
from overtone.training.loop import Trainer
from overtone.training.phema import Snapshots, synthesised
from overtone.training.progress import Progress
from overtone.training.recipes import find_recipe
from overtone.training.scoring import Scoring

OWN = "as trained"
"""the average that the run itself used"""


@dataclass(frozen=True)
class Average:
    """An average, and what was measured of it."""

    name: str
    length: float | None
    values: dict[str, float]


@dataclass(frozen=True)
class Averaged:
    """The averages of a run that were asked for."""

    averages: list[Average]
    criterion: Criterion
    pipe: Pipeline
    """The run's last checkpoint."""
    tensors: dict[str, dict[str, Any]]
    """The weights of each average, by its name."""
    images: int
    """The images seen at the end of the averages."""

    @property
    def order(self) -> str:
        return "lowest" if self.criterion.lower_is_better else "highest"

    @property
    def best(self) -> Average:
        """The one with the best value of the criterion."""
        sign = 1 if self.criterion.lower_is_better else -1
        return min(self.averages, key=lambda average: sign * average.values[self.criterion.name])

    def save_best(self, out: Path) -> None:
        """Write the model with the best average; its card says which it is."""
        network: Network = self.pipe.network
        network.load_weights(self.tensors[self.best.name], self.best.name)
        length = self.best.length
        told = "its own" if length is None else f"power function of length {length:g}"
        if length is not None:
            self.pipe.training.pop("EMA half-life in images", None)
        self.pipe.training |= {"average of the weights": told, "images seen": self.images}
        self.pipe.save_pretrained(out)


def averaged(
    run: Path,
    lengths: Sequence[float],
    *,
    images: int | None = None,
    scored_images: int = 0,
    best: str = "loss",
    show: bool = True,
) -> Averaged:
    """Make the averages of some lengths and measure them: the held-out loss, and the scores of
    `scored_images` images, of each on the same images and noise.

    Raises `OvertoneError` for a run that has written no averages down, for lengths that can't be
    made of what it has written, and for runs whose models are no pipelines of one network.
    """
    if not is_run(run) or not checkpoints_of(run):
        raise OvertoneError(
            f"{run} is not a run with a checkpoint: name one that trained a network."
        )
    pipe = open_checkpoint(run, "last", _opened)
    last = int(pipe.training.get("images seen", 0))
    images = last if images is None else images
    there = Snapshots(run).until(images)
    if not there:
        raise OvertoneError(
            f"{run} has written down no averages up to image {images:,}: a run does with"
            " --ema-lengths 0.05 0.1, from its beginning."
        )
    # Whatever is refused is refused before anything is computed.
    trainer = _trainer(run, scored_images, best)
    scoring = Scoring(trainer.task, trainer.reporting) if scored_images else None
    whole = dict(pipe.network.state_dict())
    tensors = {f"{length:g}": whole | synthesised(there, images, length) for length in lengths}
    if images == last:
        tensors = {OWN: whole} | tensors
    network: Network = trainer.ema.module.network  # type: ignore[assignment]
    found = []
    key = "averaged_loss" if trainer.task.held_out is None else "held_out_loss"
    for name, weights in tensors.items():
        network.load_weights(weights, f"the average {name}")
        values = {key: trainer.held_out_loss()}
        if scoring is not None:
            progress = Progress(images=images)
            values |= scoring(trainer.ema.module, progress, show=show)
        length = None if name == OWN else float(name)
        found.append(Average(name, length, values))
    return Averaged(found, trainer.criterion, pipe, tensors, images)


def _opened(folder: Path) -> Pipeline:
    from overtone.pipelines.load import load_pipeline

    return load_pipeline(folder)


def _trainer(run: Path, scored_images: int, best: str) -> Trainer:
    """What measures the averaged model of a run, on the data and with the draws of the run."""
    recipe: Any = find_recipe(str(run))
    if recipe.command != "train" or recipe.num_experts:
        raise OvertoneError(
            f"{run} is a run of a kind whose averages are not scored: name the run of a denoiser"
            " of one network."
        )
    reporting = replace(
        recipe.reporting, scored_images=scored_images, best=best, score_share=1.0, trackers=()
    )
    return Trainer.of(replace(recipe, reporting=reporting), out=run, show=False)
