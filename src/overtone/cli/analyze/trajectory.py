"""`overtone analyze trajectory MODEL` draws the trajectory from noise to image over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from overtone.cli.analyze.opening import opened_with
from overtone.cli.model import ModelOptions
from overtone.cli.options import parse
from overtone.errors import OvertoneError
from overtone.pipelines.seeds import seeds_of
from overtone.ranges import Finite, Steps
from overtone.training.configs.distillation import Solver


@dataclass(frozen=True)
class Options:
    """Draws an operator's trajectories beside those of its teacher's solver; or, for any other
    model, the power spectrum of its trajectories over time, which tells how many modes and times an
    operator needs (DSNO's figures)."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """An operator, or a model that may become a teacher: a saved pipeline, a run's directory, a
    repository of the Hub, or a diffusers pipeline of a U-Net or DiT."""
    teacher: str | None = None
    """The model that an operator was distilled from. Other models have none."""
    seeds: str = "0-3"
    """The seeds of the trajectories, like 0-3 or 3,5,8-12."""
    times: Steps = 16
    """The number of times at which a teacher's trajectories are solved for their spectrum."""
    solver: Solver = "own"
    """The solver of the teacher's trajectories: its own sampler, or heun, ddim, dpmpp_2m. Beside an
    operator, own is the solver that its trajectories were solved with."""
    steps: Steps | None = None
    """The number of noise levels of the solver beside an operator. If left out, it is that of the
    trajectories that the operator learned from."""
    guidance_scale: Finite | None = None
    """The guidance scale of the teacher. If left out, it is the model's own, or, beside an
    operator, that of the trajectories that it learned from."""
    opening: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    out: Path = Path("trajectory.png")
    """The figure. Its data go into a .json file beside it."""


def asked(arguments: Sequence[str]) -> Options:
    """The options in the arguments."""
    default = Options(tyro.MISSING, opening=opened_with(arguments, "analyze trajectory"))
    return parse(Options, "analyze trajectory", Options.__doc__, arguments, default=default)


def draw(options: Options) -> None:
    seeds = seeds_of(options.seeds)
    pipe = options.opening.open(options.model)
    if pipe.sampler.is_operator:
        _beside_solver(options, pipe, seeds)
    else:
        _over_time(options, pipe, seeds)


def _over_time(options: Options, pipe: Any, seeds: list[int]) -> None:
    """The spectrum over time of a model's trajectories."""
    from overtone import storage
    from overtone.analysis.figures.trajectories import temporal_figure
    from overtone.analysis.trajectories import SPACINGS, temporal_spectrum
    from overtone.data.open import public_name
    from overtone.training.teacher import teacher_of

    if options.teacher is not None:
        raise OvertoneError(f"--teacher: {options.model} is not an operator: leave it out.")
    if options.times < 2:
        raise OvertoneError(f"--times is at least 2, not {options.times}.")
    if options.steps is not None:
        raise OvertoneError(
            "--steps is for operators only: use --times here, the number of the solver's steps."
        )
    name = public_name(options.model)
    teacher = teacher_of(pipe, name, options.solver, None, options.guidance_scale)
    spectra = [temporal_spectrum(teacher, seeds, options.times, s) for s in SPACINGS]
    curves = {s.spacing: {"energy": s.energy, "cumulative": s.cumulative} for s in spectra}
    said = [s.words() for s in spectra]
    facts = {"model": name, "seeds": options.seeds, "times": options.times, "words": said}
    print("\n".join((f"{options.out}:", *said)))
    storage.write_json(options.out.with_suffix(".json"), facts | curves)
    with storage.new_file(options.out) as file:
        temporal_figure([(s.spacing, s.energy, s.cumulative) for s in spectra], file)


def _beside_solver(options: Options, pipe: Any, seeds: list[int]) -> None:
    """An operator's trajectories beside those of its teacher's solver."""
    from overtone import storage
    from overtone.analysis.figures.trajectories import trajectory_figure
    from overtone.analysis.trajectories import compared
    from overtone.data.open import public_name
    from overtone.training.teacher import open_teacher

    own = pipe.training
    if options.teacher is None:
        raise OvertoneError(
            f"{options.model} is an operator: name the model that it was distilled from"
            f" ({own.get('distilled from', 'not said')}), --teacher."
        )
    steps, solver, scale = options.steps, options.solver, options.guidance_scale
    if scale is None:
        scale = float(own.get("teacher's guidance", 1.0))
    if steps is None and "teacher's steps" in own:
        steps = int(own["teacher's steps"])
    if solver == "own":
        solver = own.get("teacher's solver", solver)
    teacher = open_teacher(options.teacher, solver, steps, scale, first=pipe.first or "")
    both = compared(pipe, teacher, seeds)
    facts: dict[str, Any] = {"model": public_name(options.model), "seeds": options.seeds}
    facts |= {"sigmas": both.sigmas, "relative_errors": both.errors}
    print(
        f"{options.out}: the relative error of the operator's images against the solver's is"
        f" {both.errors[-1]:.1%}"
    )
    storage.write_json(options.out.with_suffix(".json"), facts)
    shape = both.solver.shape[:2]
    solved, made = (
        pipe.pixels(states.flatten(0, 1).to(pipe.device)).cpu().unflatten(0, shape)
        for states in (both.solver, both.operator)
    )
    with storage.new_file(options.out) as file:
        trajectory_figure(solved, made, both.sigmas, both.errors, file)
