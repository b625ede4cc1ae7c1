"""A teacher: any model whose way from noise to image is to be looked at or learned."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
    GuidedDenoiser,
    VPSettings,
)
from overtone.errors import OvertoneError
from overtone.networks.network import digest_of
from overtone.networks.vae import VAE
from overtone.pipelines import ImagePipeline, RelayPipeline
from overtone.pipelines.base import Beginning
from overtone.precision import Precision
from overtone.processes import DiscreteSchedule, GaussianProcess, SeededNoise
from overtone.samplers import AncestralSampler, EstimateKind, OperatorSampler, Sampler
from overtone.training.rundir import check_made, open_pipeline
from overtone.training.vae import open_vae

Solver = Literal["own", "heun", "ddim", "dpmpp"]
FORMS: dict[Solver, EstimateKind] = {
    "heun": "averaged_slopes",
    "ddim": "single",
    "dpmpp": "two_step",
}
"""DDIM is Euler's step in sigma, DPM-Solver++(2M) the estimate extrapolated from the last two."""
FOREIGN = ("UNet2DModel", "DiTTransformer2DModel")
"""diffusers' networks that may be teachers"""


@dataclass(kw_only=True)
class Teacher:
    """A model with a deterministic solver of its probability-flow ODE.

    `start(sampler, seeds, class_labels)` begins a batch of images with a solver. `around` says what
    stands around the network, where a student's can be told the same times; `facts` is all else
    that trajectories depend on, as JSON.
    """

    name: str
    """as it may be published"""
    network: nn.Module
    denoiser: Any
    around: DenoiserSettings | None
    sampler: Sampler
    start: Callable[[Sampler, Sequence[int], Tensor | None], Beginning]
    guidance_scale: float
    resolution: int
    channels: int
    device: torch.device
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    vae: VAE | None = None
    is_latent: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    precision: Precision = "auto"
    pipe: ImagePipeline | None = None
    """of Overtone's models"""

    @cached_property
    def digest(self) -> str:
        """Of the weights."""
        return digest_of(self.network)

    @property
    def made_with(self) -> dict[str, Any]:
        """What trajectories depend on beside the weights, the times and the seeds."""
        return self.facts | {
            "sampler": settings.dump(self.sampler),
            "precision": precisions.resolve(self.precision, self.device),
        }

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


def is_foreign(name: str) -> bool:
    """Whether a name is that of a diffusers pipeline, here or on the Hub."""
    return (storage.locate(name) / "model_index.json").exists()


def open_teacher(
    name: str,
    solver: Solver = "own",
    steps: int | None = None,
    guidance_scale: float | None = None,
    *,
    first: str | ImagePipeline = "",
    vae: str = "",
    precision: Precision = "auto",
) -> Teacher:
    """A teacher by the name of an Overtone model (a pipeline, a run, a repository of the Hub) or of
    a diffusers pipeline of a U-Net or DiT.

    Arguments:
        solver: the model's own, or one of `FORMS`; a diffusers pipeline's own is Heun's.
        steps: noise levels of the solver; the model's own number, or 18.
        guidance_scale: the scale saved with the model, if none is given.
        first: of a relay's second stage, the first, where another than the one saved with it.
        vae: of a model of latents, where none was saved with it.

    Raises `OvertoneError` for a solver that draws noise on its way.
    """
    check_made(name, "the teacher", "--teacher MODEL")
    folder = storage.locate(name)
    if is_foreign(name):
        if first:
            raise OvertoneError(f"--first: {name} begins with noise, not with images.")
        return foreign_teacher(
            folder, solver, steps, guidance_scale, vae, precision, name=public_name(name)
        )
    pipe = open_pipeline(str(folder)).to(precisions.default_device())
    pipe.precision = precision
    if first:
        if not isinstance(pipe, RelayPipeline):
            raise OvertoneError(f"--first: {name} begins with noise, not with images.")
        if isinstance(first, str):
            check_made(
                first, "the first stage", "--first MODEL, or --first '' for the teacher's own"
            )
            first = open_pipeline(first)
        pipe.first = first
    if vae:
        if pipe.image_resolution is None:
            raise OvertoneError(f"--vae: {name} makes pixels, which no VAE has to decode.")
        pipe.vae = open_vae(vae)
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
    own: Any = pipe.sampler
    if isinstance(own, OperatorSampler):
        raise OvertoneError(f"{name} is an operator itself: a teacher solves its way step by step.")
    try:
        sampler = _solver_for(own, solver, steps)
    except ValueError as error:
        raise OvertoneError(f"--steps: {error}.") from None
    if not isinstance(sampler, Sampler) or sampler.eta or sampler.S_churn:
        raise OvertoneError(
            f"the teacher's own sampler draws noise at each step ({type(sampler).__name__}): an"
            " operator learns a deterministic one (--solver heun, ddim or dpmpp)."
        )
    if guidance_scale is not None:
        pipe.guidance = dataclasses.replace(pipe.guidance, scale=guidance_scale)
        if guidance_scale != 1.0:
            pipe.guided(pipe.guidance)

    def start(solver: Sampler, seeds: Sequence[int], labels: Tensor | None) -> Beginning:
        solved = copy.copy(pipe)
        solved.sampler = solver
        return solved.begin(seeds, labels)

    return Teacher(
        name=name,
        network=pipe.network,
        denoiser=pipe.denoiser,
        around=pipe.denoiser_settings,  # type: ignore[arg-type]
        sampler=sampler,
        start=start,
        guidance_scale=pipe.guidance.scale,
        resolution=pipe.network.config.resolution,
        channels=pipe.network.config.channels,
        device=pipe.device,
        num_classes=pipe.num_classes,
        class_names=pipe.class_names,
        vae=pipe.vae,
        is_latent=pipe.image_resolution is not None,
        facts=_facts(pipe),
        precision=pipe.precision,
        pipe=pipe,
    )


def _facts(pipe: ImagePipeline) -> dict[str, Any]:
    """What the images of a pipeline depend on, its weights and its sampler aside."""
    facts: dict[str, Any] = {
        "network": settings.dump(pipe.network.config),
        "guidance": settings.dump(pipe.guidance),
        "denoiser": settings.dump(pipe.denoiser_settings),
        "process": settings.dump(pipe.process),
    }
    first = getattr(pipe, "first", None)
    if isinstance(first, ImagePipeline):
        facts["first"] = _facts(first) | {
            "weights": digest_of(first.network),
            "vae": None if first.vae is None else first.vae.digest,
            "sampler": settings.dump(first.sampler),
            "precision": precisions.resolve(first.precision, first.device),
        }
    elif first is not None:
        raise OvertoneError(
            "the first stage of a teacher is an Overtone model: of others it can't be told whether"
            " they make the same images again."
        )
    return facts


def foreign_teacher(
    folder: Path,
    solver: Solver = "own",
    steps: int | None = None,
    guidance_scale: float | None = None,
    vae: str = "",
    precision: Precision = "auto",
    *,
    name: str = "",
) -> Teacher:
    """A diffusers pipeline of a U-Net or DiT as a teacher; its own solver is Heun's. `name` is what
    it is called, where not as its folder is."""
    from diffusers import DiffusionPipeline

    code = sorted(file.name for file in folder.rglob("*.py"))
    if code:
        raise OvertoneError(
            f"{folder} holds code ({', '.join(code[:3])}), which diffusers might execute: move it"
            " away, if the pipeline needs none."
        )
    try:
        foreign: Any = DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    except Exception as error:  # a broken file makes diffusers raise almost anything
        raise OvertoneError(f"{folder}: diffusers can't load the pipeline ({error}).") from None
    network: Any = getattr(foreign, "unet", None) or getattr(foreign, "transformer", None)
    kind = type(network).__name__
    if kind not in FOREIGN or not hasattr(foreign, "scheduler"):
        raise OvertoneError(
            f"{folder} has no network of these with a scheduler: {', '.join(FOREIGN)}"
            + ("." if network is None else f" (it has a {kind}).")
        )
    config = network.config
    sizes = config.sample_size
    sizes = (sizes, sizes) if isinstance(sizes, int) else tuple(sizes or ())
    if len(sizes) != 2 or sizes[0] != sizes[1]:
        raise OvertoneError(f"{folder}: images are square here, and its sample_size is {sizes}.")
    size = sizes[0]
    if config.out_channels not in (None, config.in_channels, 2 * config.in_channels):
        raise OvertoneError(
            f"{folder}: its network makes {config.out_channels} channels of {config.in_channels}."
        )
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
    scale = 1.0 if guidance_scale is None else guidance_scale
    try:
        count = 18 if steps is None else steps
        sampler = Sampler(count, sigma_min=low, sigma_max=high, estimate=form)
        solved: Any = denoiser if scale == 1.0 else GuidedDenoiser(denoiser, scale)
    except ValueError as error:
        raise OvertoneError(f"{error}.") from None
    own = getattr(foreign, "vae", None) or getattr(foreign, "vqvae", None)
    if vae and own is None:
        raise OvertoneError(f"--vae: {name or folder} makes pixels, which no VAE has to decode.")

    def start(solver: Sampler, seeds: Sequence[int], class_labels: Tensor | None) -> Beginning:
        source = SeededNoise(seeds)
        shape = (len(seeds), config.in_channels, size, size)
        x = solver.sigma_start * source.normal(torch.empty(shape, device=device))
        labels = None if class_labels is None else class_labels.to(device)
        path = solver.path(solved, GaussianProcess(), x, source, labels)
        return Beginning(x, solver.sigma_start, labels, without_gradient(path))

    facts = {
        "network": {key: value for key, value in config.items() if not key.startswith("_")},
        "denoiser": denoiser.kind,
        "prediction": getattr(denoiser, "prediction", ""),
        "guidance": {"scale": scale},
    }
    return Teacher(
        name=name or public_name(str(folder)),
        network=network,
        denoiser=denoiser,
        around=around,
        sampler=sampler,
        start=start,
        guidance_scale=scale,
        resolution=size,
        channels=config.in_channels,
        device=device,
        num_classes=denoiser.num_classes,
        vae=open_vae(vae or folder) if own is not None else None,
        is_latent=own is not None,
        facts=facts | ({"around": settings.dump(around)} if around else {}),
        precision=precision,
    )


def without_gradient(path: Any) -> Any:
    """Steps, each taken without gradients, whoever takes it."""
    while True:
        with torch.no_grad():
            step = next(path, None)
        if step is None:
            return
        yield step


def _solver_for(own: Any, solver: Solver, steps: int | None) -> Any:
    """A sampler on the noise levels of a model's own; `ValueError` where it can't have so many."""
    changes: dict[str, Any] = {} if steps is None else {"num_steps": steps}
    if solver == "own":
        return dataclasses.replace(own, **changes)
    if isinstance(own, Sampler):
        return dataclasses.replace(own, estimate=FORMS[solver], eta=0.0, S_churn=0.0, **changes)
    schedule = own.schedule if isinstance(own, AncestralSampler) else DiscreteSchedule()
    low, high = float(schedule.levels[0]), float(schedule.levels[-1])
    count = 18 if steps is None else steps
    return Sampler(count, sigma_min=low, sigma_max=high, estimate=FORMS[solver])
