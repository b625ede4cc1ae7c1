"""Distillation of a model into a solution operator (DSNO, Zheng et al. 2022, arXiv 2211.13449).

`collect.py` solves a teacher's trajectories and keeps them; the task here trains an operator on
them,

    min E mean_i lambda(t_i) |G(z_T)(t_i) - z(t_i)|_1,   lambda = clamp(alpha / sigma, 1, 1e4)

z the states in the variance-preserving frame, z_T where they begin.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from overtone import precision as precisions
from overtone.data.rules import Reading
from overtone.data.shards import TEST_FOLDER
from overtone.data.trajectories import Trajectories, TrajectoriesIndex, TrajectoryData
from overtone.denoisers.operator import SolutionOperator
from overtone.denoisers.preconditioning import OperatorPreconditioning
from overtone.errors import OvertoneError, plain
from overtone.launch import processes
from overtone.networks.dsno import OperatorNetwork, temporalize
from overtone.networks.network import Network
from overtone.pipelines.load import load_pipeline
from overtone.pipelines.pictures import grid
from overtone.pipelines.pipeline import Pipeline
from overtone.processes.noise import SeededNoise
from overtone.samplers.operator import OperatorSampler
from overtone.training.collect import OnlineTrajectories, differences, index_of
from overtone.training.configs.distillation import DistillationRecipe
from overtone.training.initial import begin_with, open_initial
from overtone.training.judging import reading_of
from overtone.training.objectives import Batch, Objective
from overtone.training.perceptual import perceptual_distance
from overtone.training.progress import Progress
from overtone.training.task import Picture, Task
from overtone.training.teacher import Teacher

MOST_WEIGHT = 1e4
MODES = 2
GRID_COLUMNS, GRID_ROWS = 10, 4


def weights_of(sigmas: Sequence[float], weighting: str) -> list[float]:
    """lambda at each noise level: alpha / sigma in [1, 1e4], the square root of the SNR; or 1."""
    if weighting == "uniform":
        return [1.0 for _ in sigmas]
    return [min(max(1 / sigma if sigma else MOST_WEIGHT, 1.0), MOST_WEIGHT) for sigma in sigmas]


@dataclass(frozen=True)
class TrajectoryObjective(Objective):
    """DSNO's loss: mean over the times of lambda times the mean distance of the states.

    `sigmas` are the noise levels of the trajectory, the start's first. `perceptual` takes pairs of
    images (batch, channels, height, width) to distances (batch,); none: the absolute difference.
    """

    sigmas: tuple[float, ...]
    weighting: Literal["snr", "uniform"] = "snr"
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
    num_classes: int = 0

    @cached_property
    def _kept(self) -> dict[torch.device, Tensor]:
        return {}

    def weights(self, device: torch.device) -> Float[Tensor, " times"]:
        """lambda, sent to each device once."""
        if device not in self._kept:
            values = weights_of(self.sigmas[1:], self.weighting)
            self._kept[device] = torch.tensor(values).to(device)
        return self._kept[device]

    def draw(
        self,
        x_0: Float[Tensor, "batch times channels height width"],
        labels: Int[Tensor, " batch"],
        source: SeededNoise,
    ) -> Batch:
        """The trajectories as they are: nothing is drawn."""
        return {"states": x_0} | ({"class_labels": labels} if self.num_classes else {})

    def loss(
        self, model: nn.Module, batch: Batch, average: nn.Module | None = None
    ) -> Float[Tensor, " batch"]:
        states = batch["states"]
        made = model(states[:, 0], self.sigmas[1:], batch.get("class_labels"))
        if self.perceptual is None:
            distance = (made - states[:, 1:]).abs().mean(dim=(2, 3, 4))
        else:
            pair = made.flatten(0, 1), states[:, 1:].flatten(0, 1)
            distance = self.perceptual(*pair).unflatten(0, made.shape[:2])
        return (self.weights(states.device) * distance).mean(dim=1)


def student_of(recipe: DistillationRecipe, teacher: Teacher) -> SolutionOperator:
    """The operator before training: the teacher's network with temporal layers in it, or a network
    of its own, which gets temporal layers if it is not an operator's.

    A student of experts is given the network of the expert that sampling begins with. Raises
    `OvertoneError` where teacher and student do not fit.
    """
    if recipe.network is None:
        check_student(recipe, teacher)
        return _grown(recipe, teacher, _grows_from(teacher))
    config = recipe.network.with_classes(teacher.num_classes)
    for what in ("resolution", "channels"):
        own, there = getattr(config, what), getattr(teacher, what)
        if own != there:
            raise OvertoneError(
                f"teacher and student do not fit: {what} is {there} of the teacher's images,"
                f" {own} of the student's."
            )
    operator = config.makes_trajectories
    if operator and recipe.modes is not None:
        config = dataclasses.replace(config, modes=recipe.modes)
    try:
        network = config.build()
    except ValueError as error:
        raise OvertoneError(f"network settings: {error}.") from None
    if not operator:
        return _grown(recipe, teacher, network)
    row: Any = OperatorPreconditioning().for_network(config)
    return SolutionOperator(network, row)


def _grows_from(teacher: Teacher) -> Network:
    """The network that the student's grows from, if the recipe has none."""
    network = teacher.pipe.network
    return [network, *(network.experts or ())][-1]


def _grown(recipe: DistillationRecipe, teacher: Teacher, source: Network) -> SolutionOperator:
    """The operator of a network with temporal layers, told the teacher's times."""
    try:
        network = temporalize(source, MODES if recipe.modes is None else recipe.modes)
    except ValueError as error:
        raise OvertoneError(f"{error}.") from None
    lowest = min(sigma for sigma in teacher.sampler.sigmas if sigma)
    return SolutionOperator(network, OperatorPreconditioning(teacher.pipe.preconditioning, lowest))


def check_student(recipe: DistillationRecipe, teacher: Teacher) -> None:
    """Raises `OvertoneError` where no student can be made of the teacher's network, and the recipe
    has none: before trajectories are solved for it."""
    if recipe.network is not None:
        return
    try:
        list(_grows_from(teacher).temporal_spots())
    except ValueError as error:
        raise OvertoneError(f"{error}.") from None


class DistillationTask(Task):
    """Training an operator on the trajectories in a directory, or online."""

    what, one = "trajectories", "trajectory"

    def __init__(
        self,
        recipe: DistillationRecipe,
        *,
        teacher: Teacher,
        folder: Path | None = None,
        begun: dict[str, Any] | None = None,
        show: bool = True,
    ) -> None:
        self.recipe, self.teacher = recipe, teacher
        self.index = index_of(recipe, teacher)
        self.data, self.held_out = _trajectories(recipe, teacher, self.index, folder)
        torch.manual_seed(recipe.training.seed)
        student = student_of(recipe, teacher)
        self.facts = begun or self._initialised(student.network, show)
        student.network.to_fast_layout()
        self.model = student
        own = _grows_from(teacher)
        nowhere = recipe.network is None and not list(own.temporal_spots())
        if (
            show
            and processes().is_main
            and recipe.network is None
            and own is not teacher.pipe.network
        ):
            print(
                "the student begins with the network of the expert that sampling begins with.",
                file=sys.stderr,
            )
        if show and processes().is_main and nowhere:
            print(
                f"a {own.config.kind} names no places for temporal layers"
                " (`temporal_spots`): the student has one, behind the network's output.",
                file=sys.stderr,
            )
        perceptual = None
        if recipe.distance == "lpips":
            if teacher.is_latent or teacher.channels not in (1, 3):
                raise OvertoneError("--distance lpips is of images, grey or RGB, not of latents.")
            perceptual = perceptual_distance(precisions.default_device())
        self.objective = TrajectoryObjective(
            self.index.sigmas, recipe.weighting, perceptual, teacher.num_classes
        )
        self.identity = recipe.identity() | {"teacher": teacher.digest} | self.facts
        # Online, trajectories are solved in this process: no other has its device.
        self.loads_here = recipe.online
        self.pipeline(student, Progress())  # what it can't be saved with is told of now

    def _initialised(self, network: OperatorNetwork, show: bool) -> dict[str, Any]:
        """Give the student the weights that the recipe begins with; what is written down of it."""
        if not self.recipe.init:
            return {}
        initial = open_initial(self.recipe.init)
        copied = begin_with(network, initial, self.teacher.pipe.class_names)
        if show and processes().is_main:
            print(*map(plain, copied.told()), sep="\n", file=sys.stderr)
        return initial.facts(copied)

    @property
    def of(self) -> str:
        return f"trajectories of {self.teacher.name}"

    def pipeline(self, operator: Any, progress: Progress) -> Pipeline:
        """The pipeline of an operator as it is saved."""
        own, training = self.teacher.pipe, self.recipe.training
        return Pipeline(
            operator.network,
            OperatorSampler(self.index.sigmas),
            preconditioning=operator.preconditioning,
            process=own.process,
            start=own.start,
            vae=own.vae,
            image_resolution=own.image_resolution,
            class_names=own.class_names,
            data=own.data,
            training={
                **self.teacher.facts,
                **self.reading.facts(),
                "trajectories": "solved online" if self.recipe.online else len(self.data),
                "images seen": progress.images,
                "batch size": training.batch_size,
                "learning rate": training.lr,
                "EMA half-life in images": training.ema_halflife_images,
                "seed": training.seed,
                "data digest": self.data.fingerprint,
                **self.facts,
            },
            precision=training.precision,
        )

    def export(self, average: nn.Module, folder: Path, progress: Progress) -> None:
        self.pipeline(average, progress).write_into(folder)

    def picture(self, average: nn.Module, progress: Progress) -> Picture | None:
        """Rows of the teacher's images, each above the student's of the same noise."""
        if self.teacher.is_latent and self.teacher.pipe.vae is None:
            return None
        operator: Any = average
        shown = self.held_out or self.data
        count = min(GRID_COLUMNS * GRID_ROWS, len(shown)) // GRID_COLUMNS * GRID_COLUMNS
        columns = GRID_COLUMNS if count else min(GRID_COLUMNS, len(shown))
        states, classes = shown.fetch(list(range(count or columns)))
        states = states.float().to(next(operator.parameters()).device)
        labels = classes.to(states.device) if self.teacher.num_classes else None
        with torch.no_grad(), precisions.autocast(self.recipe.training.precision, states.device):
            made = operator(states[:, 0], self.index.sigmas[1:], labels, last_only=True)[:, 0]
        both = zip(states[:, -1].split(columns), made.split(columns), strict=True)
        rows = torch.cat([row for pair in both for row in pair])
        return Picture(grid(self.pipeline(operator, progress).pixels(rows).cpu(), columns, 1))

    @property
    def scored_beside(self) -> str:  # type: ignore[override]
        return self.teacher.pipe.data

    @property
    def reading(self) -> Reading:  # type: ignore[override]
        return reading_of(self.teacher.pipe, self.recipe.teacher)

    def scored(self, average: nn.Module, progress: Progress) -> Pipeline | None:
        if self.teacher.is_latent and self.teacher.pipe.vae is None:
            return None
        return self.pipeline(average, progress)

    def opened(self, checkpoint: Path) -> Pipeline:
        return load_pipeline(checkpoint)


def _trajectories(
    recipe: DistillationRecipe, teacher: Teacher, index: TrajectoriesIndex, folder: Path | None
) -> tuple[Trajectories, Trajectories | None]:
    """What is trained on, and what is held out."""
    test: Trajectories | None = None
    if recipe.online:
        if recipe.held_out:
            own = index_of(recipe, teacher, held_out=True)
            test = OnlineTrajectories(teacher, own, endless=False)
        return OnlineTrajectories(teacher, index), test
    assert folder is not None
    data = TrajectoryData(folder, recipe.count)
    _check_fits(data.index, index, folder)
    if recipe.held_out and (folder / TEST_FOLDER).is_dir():
        kept = TrajectoryData(folder / TEST_FOLDER, recipe.held_out)
        _check_fits(kept.index, index_of(recipe, teacher, held_out=True), kept.folder)
        test = kept
    return data, test


def _check_fits(there: TrajectoriesIndex, here: TrajectoriesIndex, folder: Path) -> None:
    """What was collected is what the recipe asks for, but for how much of it."""
    wrong = differences(there, here)
    if wrong:
        raise OvertoneError(
            f"{folder} holds other trajectories than the recipe asks for"
            f" ({'; '.join(wrong)}): collect those, or pass --data."
        )
