"""A teacher: any model whose way from noise to image is to be looked at or learned."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overtone import precision as precisions
from overtone.data.open import public_name
from overtone.errors import OvertoneError
from overtone.networks.network import digest_of
from overtone.pipelines.load import load_pipeline
from overtone.pipelines.pipeline import Pipeline
from overtone.precision import Precision
from overtone.training.configs.distillation import Solver
from overtone.training.open import check_made, open_vae


@dataclass
class Teacher:
    """A pipeline whose sampler is a deterministic solver of its probability-flow ODE."""

    name: str
    """The public name of the teacher."""
    pipe: Pipeline

    @property
    def sampler(self) -> Any:
        return self.pipe.sampler

    @property
    def channels(self) -> int:
        """Channels of the states."""
        return self.pipe.network.config.channels

    @property
    def resolution(self) -> int | tuple[int, int]:
        """The height and width of the states, one number where they are alike."""
        return self.pipe.network.config.resolution

    @property
    def num_classes(self) -> int:
        return self.pipe.num_classes

    @property
    def is_latent(self) -> bool:
        """Whether the states are latents."""
        return self.pipe.image_resolution is not None

    @cached_property
    def digest(self) -> str:
        """Of the weights."""
        return digest_of(self.pipe.network)

    @property
    def made_with(self) -> dict[str, Any]:
        """What trajectories depend on beside the times and the seeds: the pipeline's account, but
        for the VAE, which decodes them."""
        return {key: value for key, value in self.pipe.made_with().items() if key != "vae"}

    @property
    def facts(self) -> dict[str, int | float | str]:
        """What is written down of a student. A teacher that was distilled itself has the guidance
        of its own teacher."""
        own, guidance = self.sampler, self.pipe.guidance
        built_in = self.pipe.training.get("teacher's guidance", guidance.scale)
        return {
            "distilled from": self.name,
            "teacher's weights": self.digest,
            "teacher's guidance": guidance.scale if guidance.acts else built_in,
            "teacher's solver": own.solver,
            "teacher's steps": own.num_steps,
        }

    def solved_by(self, sampler: Any) -> Teacher:
        """The same with another solver."""
        pipe = copy.copy(self.pipe)
        pipe.sampler = sampler
        return replace(self, pipe=pipe)

    def labels(self, seeds: Any) -> Tensor | None:
        """Seed s has class s modulo their number."""
        if not self.num_classes:
            return None
        return torch.tensor([seed % self.num_classes for seed in seeds])


def open_teacher(
    name: str,
    solver: Solver = "own",
    steps: int | None = None,
    guidance_scale: float | None = None,
    *,
    first: str | Pipeline = "",
    vae: str = "",
    precision: Precision = "auto",
) -> Teacher:
    """A teacher by the name of a model: a pipeline of Overtone's or of diffusers, a run, a
    repository of the Hub.

    Arguments:
        solver: the model's own sampler, or a form of the estimate on its noise levels.
        steps: noise levels of the solver; the model's own number if left out.
        guidance_scale: the scale saved with the model, if none is given.
        first: of a relay's second stage, the first, where another than the one saved with it.
        vae: of a model of latents, where none was saved with it.

    Raises `OvertoneError` for a solver that draws noise on its way.
    """
    named, pipe = open_model(name, first=first, vae=vae, precision=precision)
    return teacher_of(pipe, named, solver, steps, guidance_scale)


def open_model(
    name: str,
    *,
    first: str | Pipeline = "",
    vae: str = "",
    precision: Precision = "auto",
) -> tuple[str, Pipeline]:
    """The model that is to be a teacher, and its name as it may be published; arguments as for
    `open_teacher`."""
    check_made(name, "the teacher", "--teacher MODEL")
    pipe = load_pipeline(name).to(precisions.default_device())
    pipe.precision = precision
    if first:
        if pipe.process.upscale == 1:
            raise OvertoneError(f"--first: {name} begins with noise, not with images.")
        if isinstance(first, str):
            check_made(
                first, "the first stage", "--first MODEL, or --first '' for the teacher's own"
            )
            first = load_pipeline(first)
        pipe.first = first
    if vae:
        if pipe.image_resolution is None:
            raise OvertoneError(f"--vae: {name} makes pixels, which no VAE has to decode.")
        pipe.vae = open_vae(vae)
    here = Path(name).expanduser().exists()  # else a repository of the Hub, whose name is public
    return public_name(name) if here else name, pipe


def teacher_of(
    pipe: Pipeline,
    name: str = "",
    solver: Solver = "own",
    steps: int | None = None,
    guidance_scale: float | None = None,
) -> Teacher:
    """A pipeline as a teacher."""
    pipe = copy.copy(pipe)
    own: Any = pipe.sampler
    if own.is_operator:
        raise OvertoneError(
            f"{name} is an operator: name the model that it was distilled from as the teacher."
        )
    if solver == "own" and own.draws_noise:
        raise OvertoneError(
            f"the teacher's own sampler draws noise at each step ({type(own).__name__}): an"
            " operator learns a deterministic one (--solver heun, ddim or dpmpp_2m; a sampler of"
            " your own says that it draws none by `draws_noise`)."
        )
    try:
        pipe.sampler = own.as_ode(None if solver == "own" else solver, steps)
    except ValueError as error:
        raise OvertoneError(f"the teacher's solver: {error}.") from None
    if guidance_scale is not None:
        try:
            pipe.guidance = replace(pipe.guidance, scale=guidance_scale)
        except ValueError as error:
            raise OvertoneError(f"the teacher's guidance: {error}.") from None
    if pipe.process.upscale != 1 and pipe.start.pipeline is None:
        raise OvertoneError(
            "the first stage of a teacher is an Overtone model: of others it can't be told whether"
            " they make the same images again."
        )
    return Teacher(name, pipe)
