"""Fitted samplers beside everything else at equal function evaluations: the tables of docs/fit.md.

    python benchmarks/fit.py MODEL [EVALUATIONS ...] [--guidance-scale S]

MODEL is a saved pipeline with samplers fitted by `overtone fit`. Errors are distances to the
converged images of the same 256 seeds, none of which anything was fitted to. diffusers' schedulers
and k-diffusion's samplers, which are installed as `overtone bench` does it, take the model's
denoiser. "GITS-like" chooses the levels from a fine grid by dynamic programming on the errors of
single steps, added up (Chen et al. 2024, arXiv 2405.11326), on 64 other seeds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overtone import Pipeline, load_pipeline, precision
from overtone.bench import peers
from overtone.processes import SeededNoise
from overtone.registry import said
from overtone.samplers import Sampler, SchedulerSampler, sigma_grid
from overtone.solving import FitSettings, Problem
from overtone.solving.fit import Fit
from overtone.solving.problem import distance

FINE = 48
"""levels that dynamic programming chooses from"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("evaluations", type=int, nargs="*", default=[5, 8])
    parser.add_argument("--guidance-scale", type=float)
    asked = parser.parse_args()
    pipe = load_pipeline(asked.model)
    settings = FitSettings(
        evaluations=tuple(asked.evaluations), guidance_scale=asked.guidance_scale, iterations=0
    )
    fit = Fit(pipe, settings, lambda done: None)
    search = fit.search.part(64)
    for evaluations in asked.evaluations:
        for name, error in rows(pipe, fit, search, evaluations):
            row = {"model": Path(asked.model).name, "evaluations": evaluations, "way": name}
            print(json.dumps(row | {"error": error}), flush=True)


def rows(pipe: Pipeline, fit: Fit, search: Problem, evaluations: int) -> Iterator[tuple[str, Any]]:
    """Each way, and its error or why there is none."""
    check, own = fit.check, pipe.sampler
    ends = {"sigma_min": own.visited[-1], "sigma_max": own.sigma_start}
    per_step = check.calls_at(own.sigma_start)
    steps = evaluations // per_step
    for form in ("averaged_slopes", "averaged_estimates", "single", "two_step", "three_step"):
        count = (steps + 1) // 2 if form.startswith("averaged") else steps
        sampler = Sampler(count, estimate=form, **ends)
        yield f"default grid, {form}", check.error(sampler)
    yield from theirs(pipe, check, steps)
    levels = chosen(search, steps)
    for form in ("single", "two_step"):
        found = Sampler(steps, levels=levels, estimate=form)
        yield f"GITS-like levels, {form}", check.error(found)
    yield "best of the grid (overtone fit --iterations 0)", check.error(fit.began(evaluations))
    for budget in pipe.budgets:
        guided = budget.own.guidance == pipe.guidance_of(fit.asked)
        if budget.evaluations == per_step * steps and guided:
            yield "overtone fit", check.error(budget.own.sampler)


def theirs(pipe: Pipeline, check: Problem, steps: int) -> Iterator[tuple[str, Any]]:
    """Solvers of diffusers and k-diffusion, with the model's denoiser."""
    for name, scheduler in schedulers(pipe).items():
        try:
            yield f"diffusers {name}", scheduled(check, SchedulerSampler(scheduler, steps))
        except Exception as error:  # whatever theirs raises
            yield f"diffusers {name}", said(error)
    sampling = k_diffusion()
    if sampling is None:
        return
    sigmas = torch.tensor(sigma_grid(steps, pipe.sampler.visited[-1], pipe.sampler.sigma_start))
    for name in ("sample_dpmpp_2m", "sample_lms", "sample_euler"):
        yield f"k-diffusion {name}", solved(check, getattr(sampling, name), sigmas)
    half = torch.tensor(
        sigma_grid((steps + 1) // 2, pipe.sampler.visited[-1], pipe.sampler.sigma_start)
    )
    for name in ("sample_heun", "sample_dpm_2"):
        yield f"k-diffusion {name}", solved(check, getattr(sampling, name), half)


def schedulers(pipe: Pipeline) -> dict[str, Any]:
    """Of diffusers, on the model's noise levels: EDM's by themselves, the others on a thousand
    levels of EDM's grid as if they were a discrete schedule's."""
    import diffusers

    low, high = pipe.sampler.visited[-1], pipe.sampler.sigma_start
    levels = torch.tensor(sigma_grid(1000, low, high)[:-1], dtype=torch.float64).flip(0)
    abar = 1 / (1 + levels**2)
    ratios = abar / torch.cat((abar.new_ones(1), abar[:-1]))
    discrete = {"num_train_timesteps": 1000, "trained_betas": (1 - ratios).tolist()}
    ends = {"sigma_min": low, "sigma_max": high}
    return {
        "EDMDPMSolverMultistep": diffusers.EDMDPMSolverMultistepScheduler(**ends),
        "EDMDPMSolverMultistep, order 3": diffusers.EDMDPMSolverMultistepScheduler(
            **ends, solver_order=3
        ),
        "EDMEuler": diffusers.EDMEulerScheduler(**ends),
        "UniPCMultistep": diffusers.UniPCMultistepScheduler(**discrete),
        "DEISMultistep": diffusers.DEISMultistepScheduler(**discrete),
        "DPMSolverMultistep": diffusers.DPMSolverMultistepScheduler(**discrete),
        "DPMSolverMultistep, Karras": diffusers.DPMSolverMultistepScheduler(
            **discrete, use_karras_sigmas=True
        ),
        "DPMSolverSinglestep": diffusers.DPMSolverSinglestepScheduler(**discrete),
    }


def scheduled(check: Problem, sampler: SchedulerSampler) -> float:
    """The error of a scheduler from the same noise, at its own highest level."""
    scale = sampler.sigma_start / check.pipe.sampler.sigma_start
    return replace(check, start=check.start * scale).error(sampler)


def k_diffusion() -> Any:
    """Its module of samplers, from where `overtone bench` installs it; None where it is not."""
    for peer, folder in peers.installed(peers.chosen(["k-diffusion"])):
        if isinstance(folder, Path):
            sys.path.append(str(folder))
            package = types.ModuleType("k_diffusion")  # whose own __init__ imports much more
            package.__path__ = [str(folder / "k_diffusion")]
            sys.modules["k_diffusion"] = package
            return importlib.import_module("k_diffusion.sampling")
        print(f"{peer.name}: {folder}", file=sys.stderr)
    return None


def solved(check: Problem, function: Callable[..., Tensor], sigmas: Tensor) -> float:
    denoiser, total = check.denoiser, 0.0
    for start, target, labels in check.batches():

        def denoise(x: Tensor, sigma: Tensor, labels: Tensor | None = labels) -> Tensor:
            return denoiser(x, float(sigma[0]), labels).x_0

        with torch.no_grad(), precision.autocast(check.pipe.precision, check.pipe.device):
            made = function(denoise, start, sigmas.to(start.device), disable=True)
        total += float(distance(made, target).sum())
    return total / len(check)


def chosen(search: Problem, steps: int) -> tuple[float, ...]:
    """Levels whose single steps have the smallest sum of errors, each beside the fine trajectory
    of the same images."""
    pipe = search.pipe
    levels = sigma_grid(FINE, pipe.sampler.visited[-1], pipe.sampler.sigma_start)
    fine = Sampler(FINE, levels=levels[:-1], estimate="three_step")
    states, slopes = [], []
    with torch.no_grad():
        x, _, labels = search.chosen(slice(0, len(search)))
        states.append(x)
        path = fine.path(search.denoiser, pipe.process, x.clone(), SeededNoise([]), labels)
        states += [step.x for step in path]
        slopes = [
            search.denoiser(x, s, labels).x_0 for x, s in zip(states, levels[:-1], strict=False)
        ]
    last = len(levels) - 1
    cost = torch.full((last + 1, last + 1), math.inf)
    for a in range(last):
        for b in range(a + 1, last + 1):
            step = slopes[a] + levels[b] / levels[a] * (states[a] - slopes[a])
            cost[a, b] = distance(step, states[b]).mean()
    best = torch.full((steps + 1, last + 1), math.inf)
    before = torch.zeros((steps + 1, last + 1), dtype=torch.long)
    best[0, 0] = 0
    for count in range(1, steps + 1):
        best[count], before[count] = (best[count - 1][:, None] + cost).min(dim=0)
    at, places = last, []
    for count in range(steps, 0, -1):
        at = int(before[count, at])
        places.append(at)
    return tuple(levels[place] for place in reversed(places))


if __name__ == "__main__":
    main()
