"""diffusers' schedulers as samplers of our denoisers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from overtone import settings
from overtone.denoisers.denoiser import Denoiser, Images, Labels
from overtone.denoisers.foreign import PREDICTIONS, discrete_schedule, is_edm, preconditioning_of
from overtone.denoisers.preconditioning import Prediction
from overtone.errors import OvertoneError, unknown
from overtone.networks.layers import without_autocast
from overtone.processes.gaussian import Process
from overtone.processes.noise import NoiseSource
from overtone.processes.schedule import Schedule
from overtone.samplers.loop import SamplingLoop, Step


@dataclass(frozen=True)
class SchedulerSampler(SamplingLoop):
    """Samples with a diffusers scheduler: DDIM, DPM-Solver++, UniPC, Euler, EDM's, and others.

        pipe.sampler = SchedulerSampler(diffusers.DPMSolverMultistepScheduler(), num_steps=20)

    Takes the place of a `Sampler` in a pipeline; the start is as the scheduler wants it. DDIM and
    DDPM clip their estimates by default, which under guidance, over many steps, or of latents,
    spoils images: DDIMScheduler(clip_sample=False), or `scheduler_of`. Whatever the scheduler draws
    comes from the images' own generators. Raises `OvertoneError` for schedulers without a finite
    sigma_max (`discrete_schedule`) and for processes that blur.
    """

    scheduler: Any
    """of diffusers, as it is configured; a copy of it is stepped"""
    num_steps: int = 50
    """passed to its set_timesteps"""

    def __post_init__(self) -> None:
        name, config = type(self.scheduler).__name__, self.scheduler.config
        if self._is_a("DDIMInverseScheduler", "RePaintScheduler"):
            raise OvertoneError(f"{name} goes another way than from noise to image.")
        if self._is_a(
            "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler"
        ):
            raise OvertoneError(f"{name} hides the noise levels of its half steps: use Heun's.")
        if getattr(config, "use_flow_sigmas", False):
            raise OvertoneError(f"{name} is set to flow matching (use_flow_sigmas), whose sigma is"
                                " infinite at the start.")  # fmt: skip
        edm, prediction = is_edm(self.scheduler), getattr(config, "prediction_type", "epsilon")
        if prediction not in PREDICTIONS or (edm and prediction == "sample"):
            raise OvertoneError(f"{name} with prediction_type '{prediction}' is not known here.")
        if not edm:
            discrete_schedule(self.scheduler)
        if self.num_steps < 1:
            raise ValueError("a sampler takes at least one step")

    def _is_a(self, *names: str) -> bool:
        """Whether the scheduler is one of diffusers' of these names."""
        import diffusers

        return isinstance(self.scheduler, tuple(getattr(diffusers, name) for name in names))

    @cached_property
    def _prepared(self) -> Any:
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(self.num_steps)
        return scheduler

    @property
    def _is_vp(self) -> bool:
        """Whether the scheduler's samples are alpha x rather than x."""
        return float(self._prepared.init_noise_sigma) == 1.0

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        """The noise level at each of its timesteps, and what the last one leads to, 0."""
        scheduler = self._prepared
        if hasattr(scheduler, "sigmas") and len(scheduler.sigmas) > len(scheduler.timesteps):
            return (*scheduler.sigmas[: len(scheduler.timesteps)].double().tolist(), 0.0)
        levels = discrete_schedule(scheduler).levels
        return (*levels[scheduler.timesteps.long()].tolist(), 0.0)

    @property
    def sigma_start(self) -> float:
        """Standard deviation of the start: that of alpha x is 1 in variance-preserving ones."""
        if self._is_vp:
            return (1 + self.sigmas[0] ** 2) ** 0.5
        return float(self._prepared.init_noise_sigma)

    def path(
        self,
        denoiser: Denoiser,
        process: Process,
        start: Images,
        source: NoiseSource,
        class_labels: Labels | None = None,
    ) -> Iterator[Step]:
        """Every step from noise to image; the last one's x is the result."""
        self.check_process(process)
        scheduler, sigmas = copy.deepcopy(self._prepared), self.sigmas
        row = preconditioning_of(self.scheduler)
        extra = {}
        if "generator" in inspect.signature(scheduler.step).parameters:
            if source.generators is None:
                raise TypeError("a scheduler draws from the images' own generators: SeededNoise")
            extra["generator"] = source.generators
        x = start
        for number, timestep in enumerate(scheduler.timesteps):
            sigma, sigma_next = sigmas[number], sigmas[number + 1]
            estimate = denoiser(x, sigma, class_labels)
            output = row.output(x, sigma, estimate.x_0)  # what its own model would return
            if estimate.variance is not None and _learns_variance(scheduler):
                output = torch.cat((output, estimate.variance), dim=1)
            alpha, alpha_next = (
                ((1 + s**2) ** -0.5 if self._is_vp else 1.0) for s in (sigma, sigma_next)
            )
            scheduler.scale_model_input(x, timestep)  # which counts the steps, in some
            with without_autocast(x):  # theirs, which would round products in the step's formula
                stepped = scheduler.step(output, timestep, alpha * x, **extra, return_dict=False)[0]
            x = stepped.to(x.dtype) / alpha_next
            yield Step(number, sigma_next, x, estimate.x_0)

    def check_process(self, process: Process) -> None:
        if not process.is_gaussian:
            raise OvertoneError("diffusers' schedulers know only white noise, no blur.")

    def facts(self) -> dict[str, Any]:
        config = settings.jsonable(self.scheduler.config)
        name = type(self.scheduler).__name__
        return {"kind": name, "num_steps": self.num_steps, "config": config}


def scheduler_of(
    name: str,
    schedule: Schedule,
    prediction: Prediction = "eps",
    *,
    learned_variance: bool = False,
) -> Any:
    """diffusers' scheduler of that class, on the noise levels of a discrete schedule.

    Times are spread from the first step to the last; estimates are not clipped; DDPM's variance is
    the one that the network learned, if it did. Raises `OvertoneError` for another class or
    schedule.
    """
    import diffusers

    known = [n for n in dir(diffusers) if n.endswith("Scheduler") and not n.startswith("Flax")]
    if name not in known:
        raise unknown("scheduler", name, known)
    if not schedule.discrete:
        raise OvertoneError(
            f"{name} needs the discrete noise levels that a model was trained with, and this one"
            " was trained in continuous time: use Overtone's own sampler."
        )
    kind = getattr(diffusers, name)
    taken = inspect.signature(kind.__init__).parameters
    levels: Tensor = schedule.levels  # type: ignore[attr-defined]
    abar = (1 + levels**2) ** -1
    ratios = abar / torch.cat((abar.new_ones(1), abar[:-1]))
    wanted = {
        "num_train_timesteps": len(abar),
        "trained_betas": (1 - ratios).tolist(),
        "prediction_type": {ours: theirs for theirs, ours in PREDICTIONS.items()}[prediction],
        "timestep_spacing": "linspace",
        "clip_sample": False,
        "set_alpha_to_one": True,
    }
    if name == "DDPMScheduler" and learned_variance:
        wanted["variance_type"] = "learned_range"
    if "trained_betas" not in taken:
        raise OvertoneError(f"{name} takes no noise levels of a model's own.")
    return kind(**{key: value for key, value in wanted.items() if key in taken})


def _learns_variance(scheduler: Any) -> bool:
    return getattr(scheduler.config, "variance_type", "") in ("learned", "learned_range")
