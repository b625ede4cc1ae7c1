"""diffusers' schedulers as samplers of our denoisers."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from overtone import settings
from overtone.denoisers.denoiser import Denoiser, Images, Labels
from overtone.denoisers.foreign import (
    PREDICTIONS,
    discrete_schedule,
    is_a,
    is_flow,
    preconditioning_of,
)
from overtone.denoisers.preconditioning import Preconditioning
from overtone.errors import OvertoneError, counted, unknown
from overtone.networks.configs.foreign import check_whole_numbers
from overtone.networks.layers import without_autocast
from overtone.processes.flow import FlowSchedule
from overtone.processes.gaussian import Process
from overtone.processes.noise import NoiseSource
from overtone.ranges import Level, Steps, Whole
from overtone.registry import said
from overtone.samplers.loop import SamplingLoop, Step


@dataclass(frozen=True)
class SchedulerSampler(SamplingLoop):
    """Samples with a diffusers scheduler: DDIM, DPM-Solver++, UniPC, Euler, EDM's, and others.

        pipe.sampler = SchedulerSampler(diffusers.DPMSolverMultistepScheduler(), num_steps=20)

    Takes the place of a `Sampler` in a pipeline; the start is as the scheduler wants it. DDIM and
    DDPM clip their estimates by default, which under guidance, over many steps, or of latents,
    spoils images: DDIMScheduler(clip_sample=False), or `scheduler_of`. Whatever the scheduler draws
    comes from the images' own generators. `FlowMatchEulerDiscreteScheduler` takes any denoiser too;
    its infinite first noise level becomes `sigma_max`. Raises `OvertoneError` for schedulers
    without a finite sigma_max (`discrete_schedule`) and for processes that blur.
    """

    scheduler: Any
    """The scheduler of diffusers, as it is configured. A copy of it is stepped."""
    num_steps: Steps = 50
    """The number of steps, which is passed to the scheduler's set_timesteps."""
    sigma_max: Level | None = None
    """The noise level that sampling starts from under flow matching. If it is not given, it is that
    of `FlowSchedule`, 999, which is the flow time 0.999."""
    skipped: Whole = 0
    """The number of the scheduler's first timesteps that are left out."""
    levels: tuple[Level, ...] = ()
    """The falling noise levels themselves, num_steps of them, where the scheduler takes any
    (`sigmas=`): those that a sampler was fitted to, for example. If they are not given, the
    scheduler's own are used."""

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self.scheduler).__name__
        if not hasattr(self.scheduler, "set_timesteps"):
            raise OvertoneError(
                f"a SchedulerSampler takes a scheduler of diffusers, not a {name}: scheduler_of"
                " makes one by name."
            )
        if is_a(
            self.scheduler,
            "DDIMInverseScheduler",
            "DPMSolverMultistepInverseScheduler",
            "RePaintScheduler",
        ):
            raise OvertoneError(
                f"{name} does not lead from noise to an image: take another scheduler."
            )
        if is_a(
            self.scheduler,
            "KDPM2DiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "DPMSolverSDEScheduler",
        ):
            raise OvertoneError(
                f"{name} does not show the noise levels of its half steps: use"
                " HeunDiscreteScheduler."
            )
        if is_a(self.scheduler, "FlowMatchHeunDiscreteScheduler", "ScoreSdeVeScheduler"):
            raise OvertoneError(
                f"{name} is not supported: use another scheduler, or Overtone's sampler."
            )
        preconditioning_of(self.scheduler)
        if self.sigma_max is not None and not (self.is_flow and 0 < self.sigma_max < math.inf):
            raise ValueError(
                f"sigma_max is a finite noise level, for flow matching, not {self.sigma_max} for"
                f" {name}"
            )
        if self.num_steps < 1:
            raise ValueError("a sampler takes at least one step")
        if self.levels and len(self.levels) != self.num_steps:
            raise ValueError(
                f"the scheduler has {counted(len(self.levels), 'noise level')} of its own, which"
                f" can't be made into {counted(self.num_steps, 'step')}"
            )

    @cached_property
    def _prepared(self) -> Any:
        scheduler = copy.deepcopy(self.scheduler)
        with warnings.catch_warnings(), _failing(self):
            warnings.simplefilter("ignore", RuntimeWarning)  # levels that are none are refused
            if self.levels:
                self._set_levels(scheduler)
            else:
                scheduler.set_timesteps(self.num_steps)
        if self.is_flow and not self.levels:
            self._begin_finite(scheduler)
        return scheduler

    def _set_levels(self, scheduler: Any) -> None:
        """The noise levels given, which flow matching counts as times, and of which some schedulers
        want the final 0 too."""
        given = [level / (1 + level) if self.is_flow else level for level in self.levels]
        scheduler.set_timesteps(sigmas=torch.tensor(given))
        if len(scheduler.timesteps) < len(given):
            scheduler.set_timesteps(sigmas=torch.tensor([*given, 0.0]))
        own = [float(sigma) for sigma in scheduler.sigmas[: len(given)]]
        if any(abs(a - b) > 1e-4 * b for a, b in zip(own, given, strict=True)):
            raise OvertoneError(
                f"{type(scheduler).__name__} changes the noise levels that it is given (a shift,"
                " or Karras's levels, say): set it up without."
            )

    def with_levels(self, levels: Sequence[float]) -> SchedulerSampler:
        if "sigmas" not in inspect.signature(self.scheduler.set_timesteps).parameters:
            raise ValueError(
                f"{type(self.scheduler).__name__} takes no noise levels of a model's own:"
                " EulerDiscreteScheduler and FlowMatchEulerDiscreteScheduler do"
            )
        return replace(self, levels=tuple(levels), num_steps=len(levels), skipped=0)

    def _begin_finite(self, scheduler: Any) -> None:
        """Let a scheduler of flow matching begin at sigma_max instead of at pure noise."""
        sigma_max = FlowSchedule().sigma_max if self.sigma_max is None else self.sigma_max
        highest = sigma_max / (1 + sigma_max)
        scheduler.sigmas[0] = 1.0  # of a single step some settings make nan
        if bool((scheduler.sigmas[1:] >= highest).any()):  # they are spread below it instead
            scheduler.sigmas = scheduler.sigmas * highest
        scheduler.sigmas[0] = highest
        scheduler.timesteps = scheduler.sigmas[:-1] * scheduler.config.num_train_timesteps

    @property
    def is_flow(self) -> bool:
        """Whether it is flow matching's, and its first noise level `sigma_max`."""
        return is_flow(self.scheduler)

    def _scale(self, sigma: float) -> float:
        """How much smaller than x, the clean image and sigma times the noise, the scheduler's
        samples are."""
        if self.is_flow:
            return 1 / (1 + sigma)
        vp = float(self._prepared.init_noise_sigma) == 1.0
        return (1 + sigma**2) ** -0.5 if vp else 1.0

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        """The noise level at each of its timesteps, and what the last one leads to, 0."""
        return self._every[self.skipped :]

    @property
    def visited(self) -> tuple[float, ...]:
        # A scheduler of order 2 has two timesteps a step.
        return self.sigmas[:-1][:: getattr(self.scheduler, "order", 1)]

    def below(self, sigma: float) -> SchedulerSampler:
        if is_a(self.scheduler, "PNDMScheduler"):
            raise ValueError(
                "PNDMScheduler counts its steps from the first one, and can't begin later: take"
                " DPMSolverMultistepScheduler"
            )
        order = getattr(self.scheduler, "order", 1)
        return replace(self, skipped=self.skipped + order * self._lowered(sigma))

    @cached_property
    def _every(self) -> tuple[float, ...]:
        scheduler = self._prepared
        if self.is_flow:  # whose sigmas are flow times
            return tuple((s / (1 - s)) for s in scheduler.sigmas.double().tolist())
        if hasattr(scheduler, "sigmas") and len(scheduler.sigmas) > len(scheduler.timesteps):
            return (*scheduler.sigmas[: len(scheduler.timesteps)].double().tolist(), 0.0)
        levels = discrete_schedule(scheduler).levels
        return (*levels[scheduler.timesteps.long()].tolist(), 0.0)

    @property
    def sigma_start(self) -> float:
        """Standard deviation of the start: that of alpha x is 1 in variance-preserving ones."""
        scale = self._scale(self.sigmas[0])
        if self.is_flow or (self.skipped and scale == 1.0):
            return self.sigmas[0]
        return float(self._prepared.init_noise_sigma) / scale

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
        if self.skipped and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(self.skipped)
        for number, timestep in enumerate(scheduler.timesteps[self.skipped :]):
            sigma, sigma_next = sigmas[number], sigmas[number + 1]
            estimate = denoiser(x, sigma, class_labels)
            output = row.output(x, sigma, estimate.x_0)  # what its own model would return
            if estimate.variance is not None and _learns_variance(scheduler):
                output = torch.cat((output, estimate.variance), dim=1)
            alpha, alpha_next = self._scale(sigma), self._scale(sigma_next)
            if not self.is_flow:
                scheduler.scale_model_input(x, timestep)  # which counts the steps, in some
            with (
                without_autocast(x),
                _failing(self),
            ):  # theirs, which would round products in the step's formula
                stepped = scheduler.step(output, timestep, alpha * x, **extra, return_dict=False)[0]
            x = stepped.to(x.dtype) / alpha_next
            yield Step(number, sigma_next, x, estimate.x_0)

    def check_process(self, process: Process) -> None:
        if not process.is_gaussian:
            raise OvertoneError("diffusers' schedulers know only white noise, no blur.")

    def facts(self) -> dict[str, Any]:
        config = settings.jsonable(self.scheduler.config)
        name = type(self.scheduler).__name__
        own = {"kind": name, "num_steps": self.num_steps, "config": config}
        begins = {"sigma_max": self.sigmas[0]} if self.is_flow else {}
        more = {"skipped": self.skipped, "levels": list(self.levels)}
        return own | begins | {name: value for name, value in more.items() if value}


@contextmanager
def _failing(sampler: SchedulerSampler) -> Iterator[None]:
    """Errors of a scheduler itself, in one line."""
    try:
        yield
    except OvertoneError:
        raise
    except Exception as error:  # whatever it raises
        raise OvertoneError(
            f"{type(sampler.scheduler).__name__} can't take {sampler.num_steps} steps of this loop:"
            f" {said(error)}."
        ) from error


def scheduler_of(name: str, row: Preconditioning, *, learned_variance: bool = False) -> Any:
    """diffusers' scheduler of that class, for a model under a row of the table.

    Flow matching's takes any model; others one of discrete steps, whose noise levels they get.
    Times are spread from the first step to the last; estimates are not clipped; DDPM's variance is
    the one that the network learned, if it did. Raises `OvertoneError` for another class or
    model.
    """
    import diffusers

    known = [n for n in dir(diffusers) if n.endswith("Scheduler") and not n.startswith("Flax")]
    if name not in known:
        raise unknown("scheduler", name, known)
    if name == "FlowMatchEulerDiscreteScheduler":
        return diffusers.FlowMatchEulerDiscreteScheduler()
    schedule, prediction = row.schedule_of_time, row.prediction_type
    if schedule is None or not schedule.discrete or prediction is None:
        raise OvertoneError(
            f"--scheduler is for models of discrete steps, and this one has the preconditioning"
            f" '{row.kind}': it has a sampler of its own (--steps), and"
            " FlowMatchEulerDiscreteScheduler takes any model."
        )
    kind = getattr(diffusers, name)
    taken = inspect.signature(kind.__init__).parameters
    levels: Tensor = schedule.levels  # type: ignore[attr-defined]
    abar = (1 + levels**2) ** -1
    ratios = abar / torch.cat((abar.new_ones(1), abar[:-1]))
    wanted = {
        "num_train_timesteps": len(abar),
        "trained_betas": (1 - ratios).tolist(),
        "prediction_type": next(name for name, own in PREDICTIONS.items() if own == prediction),
        "timestep_spacing": "linspace",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "skip_prk_steps": True,  # PNDM's, which latent diffusion leaves out too
    }
    if name == "DDPMScheduler" and learned_variance:
        wanted["variance_type"] = "learned_range"
    if "trained_betas" not in taken:
        raise OvertoneError(f"{name} takes no noise levels of a model's own.")
    return kind(**{key: value for key, value in wanted.items() if key in taken})


def _learns_variance(scheduler: Any) -> bool:
    return getattr(scheduler.config, "variance_type", "") in ("learned", "learned_range")


MOST_TIMESTEPS = 100_000
"""a scheduler of more is refused, and one with any larger whole number: it would make as many noise
levels or estimates"""


def _check_config(name: str, config: Any) -> None:
    """Raises `OvertoneError` for settings that would cost more memory or time than a scheduler's
    formulas need."""
    steps = config.get("num_train_timesteps", 0) if isinstance(config, dict) else None
    if type(steps) is not int or not 0 <= steps <= MOST_TIMESTEPS:
        raise OvertoneError(f"the settings of a {name} are an object, of at most"
                            f" {MOST_TIMESTEPS:,} timesteps.")  # fmt: skip
    try:
        check_whole_numbers(config, MOST_TIMESTEPS)
    except ValueError as error:
        raise OvertoneError(f"the settings of a {name}: {error}.") from None


def scheduler_sampler(facts: Any) -> SchedulerSampler:
    """The sampler that `SchedulerSampler.facts` describes. Raises `OvertoneError` for what is no
    such description."""
    import diffusers

    facts = facts if isinstance(facts, dict) else {}
    name, config = str(facts.get("kind", "")), facts.get("config")
    known = [n for n in dir(diffusers) if n.endswith("Scheduler") and not n.startswith("Flax")]
    if name not in known:
        raise unknown("sampler", name, [*SamplingLoop.family.built_in, *known])
    _check_config(name, config)
    try:
        scheduler = getattr(diffusers, name).from_config(config)
        more = {key: facts[key] for key in ("sigma_max", "skipped") if key in facts}
        more["levels"] = tuple(facts.get("levels", ()))
        return SchedulerSampler(scheduler, facts.get("num_steps", 50), **more)
    except OvertoneError:
        raise
    except Exception as error:  # whatever it raises of settings that are not its own
        raise OvertoneError(f"a {name} can't be made of its settings: {said(error)}.") from error
