"""A teacher: any model whose way from noise to image is to be looked at or learned."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from overtone import precision as precisions
from overtone import settings, storage
from overtone.data import public_name
from overtone.denoisers import (
    DenoiserSettings,
    DiffusersDenoiser,
    EDMSettings,
    GuidanceSettings,
    GuidedDenoiser,
    VPSettings,
)
from overtone.errors import OvertoneError
from overtone.networks.network import digest_of
from overtone.pipelines import ImagePipeline, RelayPipeline, load_pipeline
from overtone.pipelines.base import Beginning
from overtone.precision import Precision
from overtone.processes import DiscreteSchedule, GaussianProcess, SeededNoise
from overtone.samplers import AncestralSampler, EstimateKind, OperatorSampler, Sampler
from overtone.training.rundir import RUN_FILE, find_checkpoint

Solver = Literal["own", "heun", "ddim", "dpmpp"]
FORMS: dict[str, EstimateKind] = {
    "heun": "averaged_slopes",
    "ddim": "single",
    "dpmpp": "two_step",
}
"""DDIM is Euler's step in sigma, DPM-Solver++(2M) the estimate extrapolated from the last two."""


@dataclass
class Teacher:
    """A model with a deterministic solver of its probability-flow ODE.

    `start(sampler, seeds, class_labels)` begins a batch of images with a solver. `around` says what
    stands around the network, where a student's can be told the same times.
    """

    name: str
    digest: str
    network: nn.Module
    around: DenoiserSettings | None
    sampler: Sampler
    start: Callable[[Sampler, Sequence[int], Tensor | None], Beginning]
    resolution: int
    channels: int
    num_classes: int
    class_names: tuple[str, ...]
    device: torch.device
    denoiser: Any
    made_with: dict[str, Any]
    precision: Precision = "auto"
    pipe: ImagePipeline | None = None

    def begin(self, seeds: Sequence[int], class_labels: Tensor | None) -> Beginning:
        """Where trajectories begin, and the steps that lead on."""
        return self.start(self.sampler, seeds, class_labels)

    def solved_by(self, sampler: Sampler) -> Teacher:
        """The same with another solver."""
        return dataclasses.replace(self, sampler=sampler)

    def labels(self, seeds: Sequence[int]) -> Tensor | None:
        """Seed s has class s modulo their number."""
        if not self.num_classes:
            return None
        return torch.tensor([seed % self.num_classes for seed in seeds])


def open_pipeline(name: str, checkpoint: str = "last") -> ImagePipeline:
    """A pipeline from a directory, a run or the Hub."""
    if (Path(name) / RUN_FILE).exists():
        name = str(find_checkpoint(Path(name), checkpoint))
    return load_pipeline(name)


def is_foreign(name: str) -> bool:
    """Whether a name is that of a diffusers pipeline."""
    return (Path(name) / "model_index.json").exists()


def open_teacher(
    name: str,
    solver: Solver = "own",
    steps: int | None = None,
    guidance_scale: float | None = None,
    first: str = "",
) -> Teacher:
    """A teacher by the name of an Overtone model (a pipeline, a run, a repository of the Hub) or of
    a diffusers pipeline of a U-Net or DiT.

    Arguments:
        solver: the model's own, or one of `FORMS`.
        steps: noise levels of the solver; the model's own number, or 18.
        guidance_scale: the scale saved with the model, if none is given.
        first: of a relay's second stage, the first, where another than the one saved with it.

    Raises `OvertoneError` for a solver that draws noise on its way.
    """
    if Path(name).is_dir() or Path(name).exists():
        folder = Path(name)
    elif name.startswith("runs/"):
        raise OvertoneError(
            f"the teacher is not there: overtone train {Path(name).name} makes {name}. Or pass"
            " --teacher MODEL."
        )
    else:
        folder = storage.locate(name)
    if is_foreign(str(folder)):
        return foreign_teacher(folder, solver, steps, guidance_scale)
    pipe = open_pipeline(str(folder)).to(precisions.default_device())
    if first:
        if not isinstance(pipe, RelayPipeline):
            raise OvertoneError(f"--first: {name} begins with noise, not with images.")
        if first.startswith("runs/") and not Path(first).exists():
            raise OvertoneError(
                f"the first stage is not there: {first}. Train it, or pass --first MODEL, or"
                " --first '' for the teacher's own."
            )
        pipe.first = open_pipeline(first)
    return teacher_of(pipe, public_name(name), solver, steps, guidance_scale)


def teacher_of(
    pipe: ImagePipeline,
    name: str = "",
    solver: Solver = "own",
    steps: int | None = None,
    guidance_scale: float | None = None,
) -> Teacher:
    """An Overtone pipeline as a teacher."""
    pipe = copy.copy(pipe)
    sampler: Any = pipe.sampler
    if isinstance(sampler, OperatorSampler):
        raise OvertoneError(f"{name} is an operator itself: a teacher solves its way step by step.")
    if solver != "own":
        sampler = _solver_for(sampler, solver, steps)
    elif steps is not None:
        try:
            sampler = dataclasses.replace(sampler, num_steps=steps)
        except ValueError as error:
            raise OvertoneError(f"--steps: {error}.") from None
    if not isinstance(sampler, Sampler) or sampler.eta or sampler.S_churn:
        raise OvertoneError(
            f"the teacher's own sampler draws noise at each step ({type(sampler).__name__}): an"
            " operator learns a deterministic one (--solver heun, ddim or dpmpp)."
        )
    pipe.sampler = sampler
    guidance = pipe.guidance
    if guidance_scale is not None:
        guidance = dataclasses.replace(guidance, scale=guidance_scale)
        if guidance_scale != 1.0:
            pipe.guided(guidance)
        pipe.guidance = guidance
    around: Any = pipe.denoiser_settings
    facts: dict[str, Any] = {
        "sampler": settings.dump(sampler),
        "guidance": settings.dump(guidance),
        "denoiser": settings.dump(around),
        "process": settings.dump(pipe.process),
        "precision": pipe.precision,
    }
    stage = getattr(pipe, "first", None)
    if stage is not None:
        weights = digest_of(stage.network) if isinstance(stage, ImagePipeline) else str(stage)
        facts["first"] = weights

    def start(solver: Sampler, seeds: Sequence[int], labels: Tensor | None) -> Beginning:
        own = copy.copy(pipe)
        own.sampler = solver
        return own.begin(seeds, labels)

    return Teacher(
        name,
        digest_of(pipe.network),
        pipe.network,
        around,
        sampler,
        start,
        pipe.network.config.resolution,
        pipe.network.config.channels,
        pipe.num_classes,
        pipe.class_names,
        pipe.device,
        pipe.denoiser,
        facts,
        pipe.precision,
        pipe,
    )


def foreign_teacher(
    folder: Path,
    solver: Solver = "own",
    steps: int | None = None,
    guidance_scale: float | None = None,
) -> Teacher:
    """A diffusers pipeline of a U-Net or DiT as a teacher; its own solver is Heun's."""
    from diffusers import DiffusionPipeline

    try:
        foreign: Any = DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    except Exception as error:  # a broken file makes diffusers raise almost anything
        raise OvertoneError(f"{folder}: diffusers can't load the pipeline ({error}).") from None
    network = getattr(foreign, "unet", None) or getattr(foreign, "transformer", None)
    if network is None or not hasattr(foreign, "scheduler"):
        raise OvertoneError(f"{folder} has no U-Net or transformer with a scheduler.")
    device = precisions.default_device()
    denoiser = DiffusersDenoiser(network.to(device).eval(), foreign.scheduler)
    around: DenoiserSettings | None = None
    low, high = 0.002, 80.0
    if denoiser.kind == "vp":
        levels = denoiser.schedule.levels
        low, high = float(levels[0]), float(levels[-1])
        around = VPSettings(denoiser.prediction, denoiser.schedule, len(levels) - 1)
    elif denoiser.kind == "edm":
        around = EDMSettings(denoiser.sigma_data)
    form = FORMS["heun" if solver == "own" else solver]
    sampler = Sampler(steps or 18, sigma_min=low, sigma_max=high, estimate=form)
    solved: Any = denoiser
    if guidance_scale not in (None, 1.0):
        try:
            solved = GuidedDenoiser(denoiser, GuidanceSettings(float(guidance_scale or 1.0)))
        except ValueError as error:
            raise OvertoneError(f"{error}.") from None
    config = network.config
    size = config.sample_size

    def start(solver: Sampler, seeds: Sequence[int], class_labels: Tensor | None) -> Beginning:
        source = SeededNoise(seeds)
        shape = (len(seeds), config.in_channels, size, size)
        noise = source.normal(torch.empty(shape, device=device))
        labels = None if class_labels is None else class_labels.to(device)
        x = solver.sigma_start * noise
        path = solver.path(solved, GaussianProcess(), x, source, labels)
        return Beginning(x, solver.sigma_start, labels, without_gradient(path))

    return Teacher(
        public_name(str(folder)),
        digest_of(network),
        network,
        around,
        sampler,
        start,
        size,
        config.in_channels,
        denoiser.num_classes,
        (),
        device,
        denoiser,
        {"sampler": settings.dump(sampler), "guidance scale": guidance_scale or 1.0},
    )


def without_gradient(path: Any) -> Any:
    """Steps, each taken without gradients, whoever takes it."""
    while True:
        with torch.no_grad():
            step = next(path, None)
        if step is None:
            return
        yield step


def _solver_for(own: Any, solver: str, steps: int | None) -> Sampler:
    """A deterministic sampler on the noise levels of a model's own."""
    form = FORMS[solver]
    if isinstance(own, Sampler):
        changes: dict[str, Any] = {"estimate": form, "eta": 0.0, "S_churn": 0.0}
        try:
            return dataclasses.replace(own, num_steps=steps or own.num_steps, **changes)
        except ValueError as error:
            raise OvertoneError(f"--steps: {error}.") from None
    schedule = own.schedule if isinstance(own, AncestralSampler) else DiscreteSchedule()
    levels = schedule.levels
    return Sampler(
        steps or 18, sigma_min=float(levels[0]), sigma_max=float(levels[-1]), estimate=form
    )
