"""Distillation of a model into a solution operator (DSNO, Zheng et al. 2022, arXiv 2211.13449).

`collect.py` solves a teacher's trajectories and keeps them; `distiller_of` trains an operator on
them,

    min E mean_i lambda(t_i) |G(z_T)(t_i) - z(t_i)|_1,   lambda = clamp(alpha / sigma, 1, 1e4)

z the states in the variance-preserving frame, z_T where they begin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import tyro
from jaxtyping import Float, Int
from PIL.Image import Image
from torch import Tensor, nn

from overtone import precision as precisions
from overtone import settings
from overtone.data.shards import TEST_FOLDER
from overtone.data.trajectories import (
    Trajectories,
    TrajectoriesIndex,
    TrajectoryData,
)
from overtone.denoisers import OperatorSettings, SolutionOperator
from overtone.errors import OvertoneError
from overtone.launch import processes
from overtone.networks import DSNOConfig, DSNOUNet, Experts, OperatorNetwork, temporalize
from overtone.pipelines import DSNOPipeline, ImagePipeline, RelayPipeline
from overtone.pipelines.base import grid
from overtone.processes import SeededNoise, Spacing, spaced
from overtone.samplers import OperatorSampler
from overtone.training.collect import OnlineTrajectories, index_of
from overtone.training.loop import Reporting, Trainer, Training
from overtone.training.objectives import Batch, Objective
from overtone.training.perceptual import perceptual_distance
from overtone.training.teacher import Solver, Teacher

MOST_WEIGHT = 1e4
MODES = 2
GRID_COLUMNS, GRID_ROWS = 10, 4


@dataclass(frozen=True)
class Distillation:
    """Everything that decides what a distillation makes. Each field is an option."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    about: Annotated[str, tyro.conf.Suppress]
    """what it is for, and what it needs"""
    teacher: str = ""
    """the model to distil: a saved pipeline, a run's directory, a repository of the Hub, or a
    diffusers pipeline of a U-Net or DiT"""
    count: int = 20_000
    """trajectories to collect; of more than these, training takes the first"""
    held_out: int = 256
    """trajectories beside, to measure on"""
    first_seed: int = 1_000_000
    """trajectory k is that of seed first_seed + k; small seeds are left for looking at samples"""
    num_times: int = 4
    """states of a trajectory that are learned, the image the last"""
    spacing: Spacing = "quad"
    """of their times: quad crowds them towards the image"""
    times: tuple[float, ...] = ()
    """the times themselves, t in [0, 1] of the log-SNR cosine schedule, falling to 0, instead of
    the above"""
    solver: Solver = "own"
    """the teacher's: its own sampler, or heun, ddim, dpmpp"""
    steps: int | None = None
    """noise levels of the solver; the teacher's own number, if left out"""
    guidance_scale: float | None = None
    """of the teacher; the scale saved with it, if left out"""
    dtype: Literal["float16", "float32"] = "float16"
    """of the states on the disk"""
    online: bool = False
    """solve each trajectory when it is trained on, and keep none: no disk, slower, never the same
    twice"""
    network: Annotated[DSNOConfig | None, tyro.conf.Suppress] = None
    """the student, from nothing; none: the teacher's network with temporal layers, and its
    weights"""
    modes: int | None = None
    """frequencies over time that the temporal layers keep, the constant one included; 2, or those
    of the student's own `network`, if left out"""
    weighting: Literal["snr", "uniform"] = "snr"
    """of the times in the loss: snr is alpha / sigma, in [1, 10000]"""
    distance: Literal["l1", "lpips"] = "l1"
    """between states; lpips needs the extra of that name"""
    first: str = ""
    """of a relay's second stage, the first one that trajectories go on from, and that is saved with
    the student: an operator, say; the teacher's, if left out"""
    vae: str = ""
    """what decodes the latents of a teacher that was saved without a VAE"""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    reporting: Annotated[Reporting, tyro.conf.arg(name="")] = field(default_factory=Reporting)
    kind: Literal["distillation"] = "distillation"

    def __post_init__(self) -> None:
        for name in ("count", "num_times", "modes"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.held_out < 0 or self.first_seed < self.held_out:
            raise ValueError("held_out seeds are those before first_seed: it has to be larger")
        falls = all(a > b for a, b in zip(self.times, self.times[1:], strict=False))
        if self.times and (not falls or self.times[-1] != 0 or self.times[0] >= 1):
            raise ValueError(f"times fall from below 1 to 0, and are not {self.times}")

    def times_from(self, start: float) -> tuple[float, ...]:
        """The times of the states, of trajectories that begin at time `start`."""
        return self.times or spaced(self.num_times, self.spacing, start)

    def identity(self) -> dict[str, Any]:
        """The settings that the weights depend on, the trajectories' own aside."""
        names = ("network", "modes", "weighting", "distance")
        own = {name: value for name, value in settings.dump(self).items() if name in names}
        return own | {"training": self.training.identity()}


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

    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
        states = batch["states"]
        made = model(states[:, 0], self.sigmas[1:], batch.get("class_labels"))
        if self.perceptual is None:
            distance = (made - states[:, 1:]).abs().mean(dim=(2, 3, 4))
        else:
            pair = made.flatten(0, 1), states[:, 1:].flatten(0, 1)
            distance = self.perceptual(*pair).unflatten(0, made.shape[:2])
        return (self.weights(states.device) * distance).mean(dim=1)


def student_of(recipe: Distillation, teacher: Teacher) -> SolutionOperator:
    """The operator before training: a network of its own, or the teacher's with temporal layers.

    Raises `OvertoneError` where the two do not fit.
    """
    lowest = min(sigma for sigma in teacher.sampler.sigmas if sigma)
    if recipe.network is not None:
        config = dataclasses.replace(recipe.network, num_classes=teacher.num_classes)
        for what in ("resolution", "channels"):
            own, there = getattr(config, what), getattr(teacher, what)
            if own != there:
                raise OvertoneError(
                    f"teacher and student do not fit: {what} is {there} of the teacher's images,"
                    f" {own} of the student's."
                )
        if recipe.modes is not None:
            config = dataclasses.replace(config, modes=recipe.modes)
        try:
            network: OperatorNetwork = DSNOUNet(config)
        except ValueError as error:
            raise OvertoneError(f"network settings: {error}.") from None
        return SolutionOperator(network, OperatorSettings(None, lowest))
    if isinstance(teacher.network, Experts):
        raise OvertoneError(
            "the teacher is several experts, and a student is one network: give it one of its own,"
            " by a recipe file with a network in it."
        )
    if teacher.around is None:
        raise OvertoneError(
            f"the time of {teacher.name}'s network is not known here: give the student a network of"
            " its own, by a recipe file with one in it."
        )
    try:
        network = temporalize(teacher.network, MODES if recipe.modes is None else recipe.modes)
    except ValueError as error:
        raise OvertoneError(f"{error}.") from None
    return SolutionOperator(network, OperatorSettings(teacher.around, lowest))


def distiller_of(
    recipe: Distillation,
    teacher: Teacher,
    folder: Path | None,
    *,
    show: bool = True,
) -> Trainer:
    """The trainer of a distillation, on the trajectories in `folder` or online."""
    show = show and processes().is_main
    index = index_of(recipe, teacher)
    data: Trajectories
    test: Trajectories | None = None
    if recipe.online:
        data = OnlineTrajectories(teacher, index)
        if recipe.held_out:
            own_index = index_of(recipe, teacher, held_out=True)
            test = OnlineTrajectories(teacher, own_index, endless=False)
    else:
        assert folder is not None
        data = TrajectoryData(folder, recipe.count)
        _check_fits(data.index, index, folder)
        if recipe.held_out and (folder / TEST_FOLDER).is_dir():
            test = TrajectoryData(folder / TEST_FOLDER, recipe.held_out)
            _check_fits(test.index, index_of(recipe, teacher, held_out=True), test.folder)
    torch.manual_seed(recipe.training.seed)
    student = student_of(recipe, teacher)
    student.network.to_fast_layout()
    perceptual = None
    if recipe.distance == "lpips":
        if teacher.is_latent or teacher.channels not in (1, 3):
            raise OvertoneError("--distance lpips is of images, grey or RGB, not of latents.")
        perceptual = perceptual_distance(precisions.default_device())
    own = teacher.pipe

    def pipeline(operator: Any) -> ImagePipeline:
        shared: dict[str, Any] = {
            "denoiser": operator.settings,
            "class_names": teacher.class_names,
            "training": trained(),
            "precision": recipe.training.precision,
            "vae": teacher.vae,
        }
        if own is not None:
            shared |= {
                "process": own.process,
                "image_resolution": own.image_resolution,
                "data": own.data,
            }
        sampler = OperatorSampler(index.sigmas)
        if isinstance(own, RelayPipeline):
            pipe = RelayPipeline(operator.network, sampler, **shared)
            pipe.first = own.first
            return pipe
        return DSNOPipeline(operator.network, sampler, **shared)

    def trained() -> dict[str, int | float | str]:
        training = recipe.training
        return {
            "distilled from": teacher.name,
            "teacher's weights": teacher.digest,
            "teacher's guidance": teacher.guidance_scale,
            "teacher's solver": teacher.sampler.estimate,
            "teacher's steps": teacher.sampler.num_steps,
            "trajectories": "solved online" if recipe.online else len(data),
            "images seen": trainer.progress.images,
            "batch size": training.batch_size,
            "learning rate": training.lr,
            "EMA half-life in images": training.ema_halflife_images,
            "seed": training.seed,
        }

    def picture(operator: Any) -> Image:
        """Rows of the teacher's images, each above the student's of the same noise."""
        shown = test or data
        count = min(GRID_COLUMNS * GRID_ROWS, len(shown)) // GRID_COLUMNS * GRID_COLUMNS
        columns = GRID_COLUMNS if count else min(GRID_COLUMNS, len(shown))
        states, classes = shown.fetch(list(range(count or columns)))
        states = states.float().to(next(operator.parameters()).device)
        labels = classes.to(states.device) if teacher.num_classes else None
        with torch.no_grad(), precisions.autocast(recipe.training.precision, states.device):
            made = operator(states[:, 0], index.sigmas[1:], labels, last_only=True)[:, 0]
        pipe = pipeline(operator)
        both = zip(states[:, -1].split(columns), made.split(columns), strict=True)
        return grid(
            pipe.pixels(torch.cat([row for pair in both for row in pair])).cpu(), columns, 1
        )

    trainer = Trainer(
        model=student,
        objective=TrajectoryObjective(
            index.sigmas, recipe.weighting, perceptual, teacher.num_classes
        ),
        data=data,
        held_out=test,
        identity=recipe.identity() | {"teacher": teacher.digest},
        recipe=settings.dump(recipe),
        training=recipe.training,
        # Online, trajectories are solved in this process: no other has its device.
        reporting=dataclasses.replace(recipe.reporting, workers=0)
        if recipe.online
        else recipe.reporting,
        export=lambda operator, where: pipeline(operator).write_into(where),
        picture=None if teacher.is_latent and teacher.vae is None else picture,
        show=show,
    )
    pipeline(student)
    return trainer


def _check_fits(there: TrajectoriesIndex, here: TrajectoriesIndex, folder: Path) -> None:
    """What was collected is what the recipe asks for, but for how much of it."""
    old, new = settings.dump(there), settings.dump(here)
    for free in ("teacher", "count", "block", "dtype", "first_seed"):
        del old[free], new[free]
    for facts in (old["made_with"], new["made_with"]):
        while facts is not None:  # a first stage's are in those of the second
            facts.pop("precision", None)  # which is that of the machine they were made on
            facts = facts.get("first")
    differences = list(settings.difference(old, new))
    if differences:
        raise OvertoneError(
            f"{folder} holds other trajectories than the recipe asks for"
            f" ({'; '.join(differences)}): collect those, or pass --data."
        )
