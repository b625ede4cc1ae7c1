"""How a command opens a model: the settings with which it was saved, and what is asked instead."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overtone import storage
from overtone.errors import OvertoneError, plain
from overtone.launch import processes
from overtone.pipelines.index import is_diffusers, is_pipeline, read_index
from overtone.ranges import Count, Finite, LevelOrInfinity, LevelOrZero, Positive, Steps
from overtone.runs import best_told, find_checkpoint, is_run, open_checkpoint
from overtone.samplers.loop import SamplingLoop

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline


@dataclass(frozen=True)
class AsSaved(SamplingLoop):
    """The sampler that a model was saved with, where its settings are not known yet."""

    @property
    def sigma_start(self) -> float:
        raise NotImplementedError

    def path(self, *arguments: Any) -> Any:
        raise NotImplementedError


AS_SAVED = AsSaved()


@dataclass(frozen=True)
class FirstStageOptions:
    """The first stage of a relay."""

    sampler: SamplingLoop = AS_SAVED
    """The settings of the first stage's sampler, instead of those saved with it."""
    steps: Steps | None = None
    """The number of noise levels that the first stage's sampler takes. If left out, it is the first
    stage's own."""
    guidance_scale: Finite | None = None
    """The scale of the first stage's classifier-free guidance; 1 is none. If left out, it is the
    first stage's own."""
    guidance_interval: tuple[LevelOrZero, LevelOrInfinity] | None = None
    """The lowest and the highest sigma at which the first stage's guidance acts. If left out, they
    are the first stage's own."""

    def apply(self, pipe: Pipeline) -> None:
        """Give a relay's first stage these settings. Raises `OvertoneError` if it has none."""
        first = pipe.start.pipeline
        changes = {"scale": self.guidance_scale, "interval": self.guidance_interval}
        changes = {name: value for name, value in changes.items() if value is not None}
        if first is None:
            if changes or self.steps is not None or self.sampler != AS_SAVED:
                raise OvertoneError("--first-stage: this model has no first stage that is a model.")
            return
        if self.sampler != AS_SAVED:
            first.sampler = self.sampler
        try:
            if self.steps is not None:
                first.sampler = first.sampler.with_steps(self.steps)
            first.guidance = replace(first.guidance, **changes)  # type: ignore[arg-type]
        except ValueError as error:
            raise OvertoneError(f"--first-stage: {error}.") from None


@dataclass(frozen=True)
class ModelOptions:
    """How a model is opened."""

    sampler: SamplingLoop = AS_SAVED
    """The settings of the sampler, instead of those saved with the model."""
    first_stage: FirstStageOptions = field(default_factory=FirstStageOptions)
    scheduler: str | None = None
    """A diffusers scheduler, by the name of its class, instead of the sampler that was saved with
    the model. It takes 50 steps unless the number of steps is given. DDIMScheduler,
    DPMSolverMultistepScheduler and others are for models of discrete timesteps;
    FlowMatchEulerDiscreteScheduler is for any model."""
    vae: str | None = None
    """The VAE that decodes the latents of a model that was saved without one."""
    scaling_factor: Positive | None = None
    """The scaling factor of the VAE, where its config.json has none."""
    first: str | None = None
    """The first stage that a relay's second stage goes on from: a model, a run, or images (folder,
    zip, hf:, ...). Seed k continues image k, modulo the number of images."""
    resident: Count | None = None
    """The number of experts that are on the device at a time, at most. If left out, all are."""
    compile: bool = False
    """Compile the network first, by torch.compile. It pays for many images on a GPU."""
    checkpoint: str = "last"
    """The checkpoint of a run's directory that is opened: last, or best. A message says what best
    is judged by in this run."""

    def open(self, model: str) -> Pipeline:
        """The pipeline, where it runs fastest, with the parts asked for."""
        if self.scaling_factor is not None and self.vae is None:
            raise OvertoneError("--scaling-factor is that of --vae, and goes with it.")
        pipe = open_model(model, self.checkpoint, self.resident)
        if self.vae is not None:
            if pipe.image_resolution is None:
                raise OvertoneError(f"--vae: {model} makes pixels, not latents: leave it out.")
            from overtone.training.open import open_vae

            pipe.vae = open_vae(self.vae, self.scaling_factor)
        if self.first is not None:
            if pipe.process.upscale == 1:
                raise OvertoneError(
                    f"--first: {model} begins with noise, not with images: leave it out."
                )
            pipe.first = self.first if is_images(self.first) else open_model(self.first)
        self.first_stage.apply(pipe)
        if self.scheduler is not None and self.sampler not in (AS_SAVED, pipe.sampler):
            raise OvertoneError("--scheduler replaces the sampler: it goes without --sampler.")
        if self.sampler != AS_SAVED:
            pipe.sampler = self.sampler
        if self.scheduler is not None:
            pipe.sampler = self._scheduled(pipe, self.scheduler)
        return pipe.compile() if self.compile else pipe

    def _scheduled(self, pipe: Pipeline, name: str) -> SamplingLoop:
        from overtone.samplers.schedulers import SchedulerSampler, scheduler_of

        learned = pipe.network.config.learns_variance
        scheduler = scheduler_of(name, pipe.preconditioning, learned_variance=learned)
        sampler = SchedulerSampler(scheduler)
        # Flow matching begins where the model's own sampler does, not at an infinite noise level.
        begin = pipe.sampler.sigma_start
        return replace(sampler, sigma_max=begin) if sampler.is_flow else sampler


def saved_options(arguments: Sequence[str]) -> ModelOptions:
    """The settings with which the model named by the first argument was saved, so that each of its
    sampler's is an option with that default; none for what is no model of Overtone's."""
    name = arguments[0] if arguments else "-"
    if name.startswith("-"):
        return ModelOptions()
    first = _given(arguments, "--first")
    path = Path(name).expanduser()
    if is_run(path):
        which = "best" if _given(arguments, "--checkpoint") == "best" else "last"
        return open_checkpoint(path, which, lambda folder: _saved_in(folder, first))
    found = _folder_of(name)
    return ModelOptions() if found is None else _saved_in(found, first)


def _saved_in(folder: Path, given: str | None) -> ModelOptions:
    """The settings saved in a directory, and those of its first stage, or of the one `given`."""
    first = _folder_of(given) if given else folder / "first"
    stage = FirstStageOptions()
    if first is not None and _is_model(first):
        stage = FirstStageOptions(_sampler_in(first))
    return ModelOptions(_sampler_in(folder), stage)


def _is_model(folder: Path) -> bool:
    return is_pipeline(folder) or is_diffusers(folder)


def _sampler_in(folder: Path) -> SamplingLoop:
    """The sampler of a model in a directory, Overtone's or diffusers'."""
    if is_pipeline(folder):
        return read_index(folder).sampler
    from overtone.pipelines.foreign import sampler_of

    return sampler_of(folder)


def _given(arguments: Sequence[str], option: str) -> str | None:
    """The value of an option, `--option VALUE` or `--option=VALUE`, before it is parsed."""
    found = [value for argument, value in pairwise(arguments) if argument == option]
    found += [a.partition("=")[2] for a in arguments if a.startswith(f"{option}=")]
    return found[-1] if found else None


def _folder_of(name: str) -> Path | None:
    """The directory of a saved pipeline, Overtone's or diffusers', or None."""
    path = Path(name).expanduser()
    if is_run(path):
        path = find_checkpoint(path)
    if not path.exists() and not is_images(name):
        path = storage.locate(name)
    return path if path.is_dir() and _is_model(path) else None


def check_first(arguments: Sequence[str], command: str) -> None:
    """Raises `OvertoneError` where options come before the model, whose settings they are."""
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        raise OvertoneError(f"the model comes first: overtone {command} MODEL [options].")


def open_model(name: str, checkpoint: str = "last", resident: int | None = None) -> Pipeline:
    """A pipeline from a directory, a run or the Hub, where it runs fastest."""
    from overtone import precision
    from overtone.pipelines.load import load_pipeline

    processes()  # which gives each its own device, where there are several
    if checkpoint not in ("last", "best"):
        raise OvertoneError(f"--checkpoint is last or best, not '{checkpoint}'.")
    pipe = load_pipeline(name, checkpoint=checkpoint)
    if checkpoint == "best" and processes().is_main:
        print(plain(f"{name}: checkpoint {best_told(name)}"), file=sys.stderr)
    return pipe.to(precision.default_device(), resident=resident)


def of_recipe(name: str) -> str:
    """The run of a recipe, where the name is a recipe's and nothing else has it; any other name as
    it is. Raises `OvertoneError` for a recipe that has not been trained here."""
    from overtone.training.recipes import RECIPES

    run = Path("runs") / name
    if name not in RECIPES or Path(name).exists():
        return name
    if not is_run(run):
        raise OvertoneError(
            f"{name} is a recipe, and {run} holds no run of it: overtone train {name} makes one, or"
            " name the run's directory."
        )
    return str(run)


def is_images(name: str) -> bool:
    """Whether the name is that of images rather than of a model."""
    from overtone.data.names import SUFFIXES, in_full, is_known

    name = in_full(name)
    path = Path(name).expanduser()
    if name.startswith("hf:") or is_known(name) or path.is_file():
        return True
    if not path.is_dir() or _is_model(path) or is_run(path):
        return False
    return any(f.suffix.lower() in SUFFIXES for f in path.rglob("*"))
