"""Where the search begins: the best of a grid of settings.

EDM's noise levels of several lowest levels and exponents rho, under each form of the estimate, with
as many steps as the evaluations allow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from overtone.samplers.estimates import EstimateKind
from overtone.samplers.sampler import Sampler, sigma_grid

if TYPE_CHECKING:
    from overtone.samplers.loop import SamplingLoop
    from overtone.solving.problem import Problem, Told

FORMS: tuple[EstimateKind, ...] = (
    "two_step",
    "three_step",
    "single",
    "averaged_estimates",
    "averaged_slopes",
)
RHOS = (3.0, 7.0, 12.0, 40.0)
"""exponents; levels of the last are nearly evenly spaced in ln sigma"""
LOWEST = 6
"""lowest noise levels, from the model's own up to `HIGHEST_LAST`"""
HIGHEST_LAST = 0.3
"""or a tenth of where sampling begins, if that is lower"""
GRID = len(FORMS) * len(RHOS) * LOWEST
FIRST, SECOND = 32, 8
"""images that all settings are tried on, and settings that are tried on four times as many"""


def searched(
    problem: Problem, evaluations: int, trials: int, told: Told = lambda done: None
) -> Sampler | None:
    """The best sampler of at most so many evaluations; None where none fits."""
    found = list(candidates(problem, evaluations))
    if len(found) > trials:  # evenly spread over forms and levels
        found = [found[round(k * (len(found) - 1) / max(trials - 1, 1))] for k in range(trials)]
    few, many = problem.part(FIRST), problem.part(4 * FIRST)
    ranked = sorted(found, key=lambda sampler: few.error(sampler, told))[:SECOND]
    return min(ranked, key=lambda sampler: many.error(sampler, told), default=None)


def candidates(problem: Problem, evaluations: int) -> Iterator[Sampler]:
    """The settings of the grid."""
    own = problem.pipe.sampler
    for form in FORMS:
        for lowest in lowest_levels(own):
            for rho in RHOS:
                sampler = longest(problem, form, lowest, own.sigma_start, rho, evaluations)
                if sampler is not None:
                    yield sampler


def lowest_levels(sampler: SamplingLoop) -> tuple[float, ...]:
    """Evenly spaced in ln sigma."""
    low, start = sampler.visited[-1], sampler.sigma_start
    high = max(min(HIGHEST_LAST, start / 10), low)
    ratio = (high / low) ** (1 / (LOWEST - 1))
    return tuple(dict.fromkeys(low * ratio**k for k in range(LOWEST)))


def longest(
    problem: Problem, form: EstimateKind, lowest: float, highest: float, rho: float, most: int
) -> Sampler | None:
    """The grid of the most steps that take at most so many evaluations; None if one takes more, or
    if one step is all and another form has it too."""
    best = None
    for steps in range(1, most + 1):
        levels = sigma_grid(steps, lowest, highest, rho)[:-1]
        sampler = Sampler(num_steps=steps, levels=levels, estimate=form)
        if problem.calls_of(sampler) > most:
            break
        best = sampler
    if best is not None and best.num_steps == 1 and form != "single":
        return None
    return best
