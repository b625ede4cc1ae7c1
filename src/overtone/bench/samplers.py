"""What samplers cost beside the network: the same solver of Overtone and of its peers, on a
denoiser that costs nothing."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overtone.bench.compare import OWN, Asked, Line, against
from overtone.bench.turns import in_turns
from overtone.denoisers import Denoiser, Estimate
from overtone.precision import default_device
from overtone.processes import GaussianProcess, SeededNoise
from overtone.registry import said
from overtone.samplers import Sampler, sigma_grid

STEPS = 18
SHAPE = (16, 3, 32, 32)
FORMS = {"euler": "sample_euler", "heun": "sample_heun", "dpmpp_2m": "sample_dpmpp_2m"}
"""our names, and k-diffusion's functions"""


class _Free(Denoiser):
    """Costs nothing but one product."""

    def forward(
        self, x: Tensor, sigma: float | Tensor, class_labels: Tensor | None = None
    ) -> Estimate:
        return Estimate(0.5 * x)


def samplers(asked: Asked) -> Iterator[Line]:
    """Trajectories a second of each solver, 18 noise levels."""
    device = default_device()
    start = 80 * torch.randn(SHAPE, device=device)
    for form, function in FORMS.items():
        own = Sampler(STEPS, estimate=form)  # type: ignore[arg-type]
        tasks: dict[str, Callable[[], object]] = {
            OWN: partial(own, _Free(), GaussianProcess(), start, SeededNoise([]))
        }
        failed = {}
        for name, make in (("k-diffusion", _k_diffusion), ("diffusers", _diffusers)):
            if name in asked.peers:
                try:
                    task = make(form, function, start)
                    out = task()
                    if name == "k-diffusion":  # on the same levels
                        _same(tasks[OWN](), out)
                    tasks[name] = task
                except Exception as error:  # whatever a peer raises: the others are measured
                    failed[name] = said(error)
        with torch.no_grad():
            turns = in_turns(tasks, asked.seconds)
        told = {"failed": failed} if failed else {}
        yield {"case": f"sampler {form}, {STEPS} levels"} | against(turns, {}, 1) | told


def _same(own: Any, other: Any) -> None:
    away = float((own - other).abs().max() / own.abs().max())
    if not away < 1e-3:
        raise ValueError(f"the two solvers differ by {away:.2g} of the largest value")


def _k_diffusion(form: str, function: str, start: Tensor) -> Callable[[], Tensor]:
    """The solver alone: what the package imports beside it needs more than is installed."""
    if "k_diffusion" not in sys.modules:
        package = types.ModuleType("k_diffusion")
        package.__path__ = [str(Path(p) / "k_diffusion") for p in sys.path]
        sys.modules["k_diffusion"] = package
    sampling = importlib.import_module("k_diffusion.sampling")
    sigmas = torch.tensor(sigma_grid(STEPS), device=start.device)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return 0.5 * x

    return partial(getattr(sampling, function), denoise, start, sigmas, disable=True)


def _diffusers(form: str, function: str, start: Tensor) -> Callable[[], Tensor]:
    """Its scheduler of the same solver, on as many levels of its own."""
    import diffusers

    kind: Any = {
        "euler": partial(diffusers.EulerDiscreteScheduler, use_karras_sigmas=True),
        "heun": partial(diffusers.HeunDiscreteScheduler, use_karras_sigmas=True),
        "dpmpp_2m": partial(diffusers.DPMSolverMultistepScheduler, use_karras_sigmas=True),
    }[form]
    scheduler = kind(prediction_type="sample")

    def run() -> Tensor:
        scheduler.set_timesteps(STEPS, device=start.device)
        x = start
        for time in scheduler.timesteps:
            scheduler.scale_model_input(x, time)
            x = scheduler.step(0.5 * x, time, x).prev_sample
        return x

    return run
