"""How trajectories of the probability-flow ODE behave over time, DSNO's figures (arXiv 2211.13449):
their spectrum, which says how many modes and times an operator needs, and an operator's beside
the solver's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from overtone.errors import OvertoneError
from overtone.pipelines.pipeline import Pipeline
from overtone.processes.vp_frame import FLOW_TIME, Spacing, spaced
from overtone.training.collect import BATCH, kept_steps, solve
from overtone.training.teacher import Teacher

SPACINGS: tuple[Spacing, ...] = ("uniform", "quad")
ENOUGH = (0.9, 0.99)  # shares of the energy that are spoken of


def temporal_energy(
    states: Float[Tensor, "batch times channels height width"],
) -> Float[Tensor, " modes"]:
    """The share of each temporal frequency in the energy of trajectories, averaged over pixels.

    E_k = w_k |sum_m u_m exp(-2 pi i k m / M)|^2, w = 2 but for the constant and the highest of an
    even M, over their sum: by Parseval that of the squares.
    """
    power = _power(states)
    return power / power.sum()


def _power(states: Tensor) -> Tensor:
    power = torch.fft.rfft(states.cpu().double(), dim=1).abs().square().sum(dim=(0, 2, 3, 4))
    power[1 : (states.shape[1] + 1) // 2] *= 2
    return power


def sampled(teacher: Teacher, times: int, spacing: Spacing) -> Teacher:
    """The teacher with a solver that passes `times` states, evenly or quadratically spaced in t,
    and twice as many levels between."""
    own = teacher.sampler
    start = FLOW_TIME.t_at(own.sigma_start)
    passed = spaced(2 * times, spacing, start)[:-1]
    levels = (own.sigma_start, *(FLOW_TIME.sigma_at(t) for t in passed))
    try:
        return teacher.solved_by(own.with_levels(levels))
    except ValueError as error:
        raise OvertoneError(
            f"the spectrum over time needs {times} noise levels: {error}."
        ) from None


@dataclass(frozen=True)
class TemporalSpectrum:
    """Shares of energy by temporal mode, for trajectories sampled at `times` times."""

    spacing: str
    times: int
    energy: list[float]
    """The energy of each mode, the constant first."""

    @property
    def cumulative(self) -> list[float]:
        total, out = 0.0, []
        for share in self.energy:
            total += share
            out.append(min(total, 1.0))
        return out

    def modes(self, share: float) -> int:
        """How many hold this share of the energy."""
        return next(n for n, held in enumerate(self.cumulative, 1) if held >= share - 1e-12)

    def words(self) -> str:
        """What it means for an operator: J modes want more than 2 (J - 1) times."""
        said = []
        for share in ENOUGH:
            count = self.modes(share)
            said.append(
                f"{share:.0%} of the energy in {count} mode{'s' if count > 1 else ''}"
                f" (--modes {count} --num-times {max(2 * count - 1, 1)} or more)"
            )
        return f"{self.spacing} times: " + ", ".join(said)


def temporal_spectrum(
    teacher: Teacher, seeds: Sequence[int], times: int, spacing: Spacing
) -> TemporalSpectrum:
    """Of a teacher's trajectories from `seeds`, the start left out, as an operator learns them."""
    passing = sampled(teacher, times, spacing)
    sigmas = passing.sampler.sigmas
    start = FLOW_TIME.t_at(sigmas[0])
    kept = [sigmas[i] for i in kept_steps(sigmas, spaced(times, spacing, start))]
    total: Any = 0
    for at in range(0, len(seeds), BATCH):
        total = total + _power(solve(passing, seeds[at : at + BATCH], kept)[0][:, 1:])
    return TemporalSpectrum(spacing, times, (total / total.sum()).tolist())


@dataclass(frozen=True)
class Comparison:
    """An operator's states and the solver's, for the same noise."""

    sigmas: tuple[float, ...]
    """The noise levels of the states, without that of the start."""
    solver: Tensor
    operator: Tensor

    @property
    def errors(self) -> list[float]:
        """Root mean square of the difference over that of the solver's state, by time."""
        difference = (self.operator - self.solver).square().mean(dim=(0, 2, 3, 4)).sqrt()
        return (difference / self.solver.square().mean(dim=(0, 2, 3, 4)).sqrt()).tolist()


def compared(pipe: Pipeline, teacher: Teacher, seeds: Sequence[int]) -> Comparison:
    """An operator beside its teacher's solver. Raises `OvertoneError` for another model than it was
    distilled from, and where the solver passes other noise levels than the operator knows."""
    if not pipe.sampler.is_operator:
        raise OvertoneError("only an operator's trajectory can be compared with a solver's.")
    known = pipe.training.get("teacher's weights", teacher.digest)
    shapes = (pipe.network.config.channels, pipe.network.config.resolution)
    if known != teacher.digest or shapes != (teacher.channels, teacher.resolution):
        name = pipe.training.get("distilled from", "another model")
        raise OvertoneError(
            f"the operator was distilled from {name} with weights {known}, and {teacher.name} has"
            f" {teacher.digest}: name the model with those weights, --teacher."
        )
    levels: tuple[float, ...] = pipe.sampler.levels  # type: ignore[attr-defined]
    own = teacher.sampler.sigmas
    near = [min(own, key=lambda s: abs(s - level)) for level in levels]
    if any(abs(s - level) > 1e-6 * max(level, 1e-3) for s, level in zip(near, levels, strict=True)):
        raise OvertoneError(
            "the teacher's solver passes other noise levels than the operator was trained on: give"
            " it the same --solver and --steps as then."
        )
    solved, made = [], []
    for at in range(0, len(seeds), BATCH):
        part = seeds[at : at + BATCH]
        states, labels = solve(teacher, part, near)
        solved.append(states[:, 1:].cpu())
        made.append(pipe.trajectory(part, labels if teacher.num_classes else None).cpu())
    return Comparison(tuple(levels[1:]), torch.cat(solved), torch.cat(made).float())
