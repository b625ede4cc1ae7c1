"""Samplers fitted to a model, for numbers of function evaluations.

    from overtone.solving import FitSettings, fit_samplers

    fit_samplers(pipe, FitSettings(evaluations=(5, 8)))
    images = pipe(seeds=range(16), evaluations=8)

For each number the search begins with the best sampler of a grid and goes on by descent, both on
the distance to the converged images of some seeds. It is measured on other seeds, and kept if it is
nearer there than the model's own sampler with as many steps as the evaluations allow.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overtone import settings as settings_files
from overtone import storage
from overtone.errors import OvertoneError, counted
from overtone.launch import processes
from overtone.leftovers import sweep
from overtone.pipelines.budgets import Budget, FittedSampler, within_few
from overtone.pipelines.evaluations import evaluations_of, expected_evaluations
from overtone.pipelines.request import Request
from overtone.samplers.sampler import Sampler
from overtone.solving.descent import descend
from overtone.solving.grid import FIRST, GRID, SECOND, searched
from overtone.solving.problem import CONVERGED, Problem
from overtone.solving.settings import FitSettings

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline
    from overtone.samplers.loop import SamplingLoop
    from overtone.solving.problem import Told

SEARCH, CHECK = 2**31, 2**31 + 2**24
"""the first of the seeds that samplers are fitted on, and of those that they are checked on: far
from those that anybody asks for"""
ONE = Request((0,))
SPLITS, SPLIT_IMAGES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8), 64
"""shares of a relay's evaluations that its first stage may take, and images they are tried on"""
KEPT_DAYS = 30
"""that converged images and interrupted descents are kept for"""


@dataclass(frozen=True)
class Outcome:
    """What came of a fit: a budget, or why it is not kept."""

    evaluations: int
    budget: Budget | None
    error: float
    default_error: float

    def __str__(self) -> str:
        begin = f"{counted(self.evaluations, 'function evaluation')}: error {self.error:.4f}"
        if self.budget is None:
            return (
                f"{begin}; not kept, as the model's own sampler with as many has"
                f" {self.default_error:.4f}."
            )
        return (
            f"{begin}, {self.error / self.default_error:.2f} of the default's"
            f" {self.default_error:.4f}."
        )


def fit_samplers(
    pipe: Pipeline,
    settings: FitSettings | None = None,
    *,
    told: Told = lambda done: None,
    kept: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Fit a sampler to a pipeline for each number of evaluations, and put those that are nearer to
    the converged images than its own into `pipe.budgets`, where they take the place of others for
    as many evaluations under the same guidance. What was fitted before by the same settings stays.

    Arguments:
        told: is told of evaluations as they are done.
        kept: is given each outcome when it is there, and `pipe.budgets` hold it.

    Raises `OvertoneError` for an operator, for a sampler that draws noise, and for numbers of
    evaluations that can't be had, or that are not fewer than the model's own.
    """
    settings = settings or FitSettings()
    fit = Fit(pipe, settings, told)
    outcomes = []
    for evaluations in settings.evaluations:
        outcome = fit.known_outcome(evaluations) or fit.outcome(evaluations)
        if outcome.budget is not None:
            pipe.budgets = replaced(pipe.budgets, outcome.budget)
        kept(outcome)
        outcomes.append(outcome)
    return outcomes


def replaced(budgets: tuple[Budget, ...], budget: Budget) -> tuple[Budget, ...]:
    """Budgets with a new one, in the place of one for the same."""
    others = [
        other
        for other in budgets
        if (other.evaluations, other.own.guidance) != (budget.evaluations, budget.own.guidance)
    ]
    return tuple(sorted((*others, budget), key=lambda one: one.evaluations))


def forget(folder: Path) -> None:
    """Delete what nobody went on with."""
    for file in folder.glob("*.safetensors"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > KEPT_DAYS * 86400:
                file.unlink()


def work_of(pipe: Pipeline, settings: FitSettings) -> int:
    """About how many evaluations of an image a fit takes; a backward pass counts as two."""
    guided = 2 if pipe.guidance_of(_asked(settings)).acts else 1
    images = settings.search_images + settings.check_images
    work = images * CONVERGED * guided
    few, many = FIRST, 4 * FIRST * SECOND
    for evaluations in settings.evaluations:
        own = min(settings.trials, GRID) * few + many
        own += settings.iterations * settings.batch_size * 3 + 2 * images
        work += own * evaluations
    return work * (1 if pipe.start.pipeline is None else 2)


def check_fit(pipe: Pipeline, settings: FitSettings) -> None:
    """Raises `OvertoneError` for what can't be fitted."""
    if processes().count > 1:
        raise OvertoneError("a fit is the work of one process: start it without a launcher.")
    for model in (pipe, pipe.start.pipeline):
        if model is None:
            continue
        if model.sampler.is_operator:
            raise OvertoneError("an operator answers in one evaluation: there are no steps to fit.")
        if model.sampler.draws_noise:
            raise OvertoneError(
                f"a sampler is fitted to the images that its starts lead to, and this"
                f" {type(model.sampler).__name__} draws noise on the way: fit a Sampler without eta"
                " or S_churn, by --sampler, or pipe.sampler.as_ode('two_step')."
            )
    own = evaluations_of(pipe, replace(_asked(settings), seeds=(0,)))
    for evaluations in settings.evaluations:
        if evaluations >= own:
            raise OvertoneError(
                f"the model's own sampler takes {own:g} function evaluations per image: a fit is"
                f" for fewer, and not for {evaluations}."
            )


def _asked(settings: FitSettings) -> Request:
    return Request(
        (),
        guidance_scale=settings.guidance_scale,
        guidance_interval=settings.guidance_interval,
        guidance_high_scale=settings.guidance_high_scale,
        batch_size=settings.batch_size,
    )


class Fit:
    """The search for samplers of one pipeline."""

    def __init__(self, pipe: Pipeline, settings: FitSettings, told: Told) -> None:
        self.pipe, self.settings, self.told = pipe, settings, told
        self.asked = _asked(settings)
        check_fit(pipe, settings)
        self.folder = storage.cache_directory() / "fits"
        sweep(self.folder, days=KEPT_DAYS)
        forget(self.folder)
        self.known: dict[int, Sampler] = {}
        """the best samplers of the grid by their evaluations"""
        first = pipe.start.pipeline
        own = dict.fromkeys(("guidance_scale", "guidance_interval", "guidance_high_scale"))
        plain = replace(settings, evaluations=(1,), **own)  # type: ignore[arg-type]
        self.first = None if first is None else Fit(first, plain, told)

    def _own_evaluations(self) -> float:
        """Of the stage alone."""
        return expected_evaluations(self.pipe, replace(self.asked, seeds=(0,))).own

    @cached_property
    def search(self) -> Problem:
        """What samplers are fitted on."""
        return self._problem(SEARCH, self.settings.search_images)

    @cached_property
    def check(self) -> Problem:
        """What they are measured on."""
        return self._problem(CHECK, self.settings.check_images)

    def _problem(self, first: int, count: int) -> Problem:
        """The converged images of some seeds; computed once for a model."""
        request = replace(self.asked, seeds=range(first, first + count))
        file = self._file("converged", {"seeds": [first, count], "levels": CONVERGED})
        labels = self.pipe.labels(request)
        if file.exists():
            tensors = storage.load_tensors(file)
            return Problem(self.pipe, request, tensors["start"], tensors["target"], labels)
        problem = Problem.of(self.pipe, request, self.told)
        file.parent.mkdir(parents=True, exist_ok=True)
        with storage.new_file(file) as new:
            storage.save_tensors(new, {"start": problem.start, "target": problem.target})
        return problem

    def _file(self, what: str, facts: dict[str, Any]) -> Path:
        """Where something is kept that depends on the model, its guidance and these facts."""
        account = self.pipe.made_with(self.asked)
        text = json.dumps([what, account, facts], sort_keys=True)
        return self.folder / f"{what}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.safetensors"

    def known_outcome(self, evaluations: int) -> Outcome | None:
        """What the same search has found before; None if there was none."""
        guidance, facts = self.pipe.guidance_of(self.asked), self._facts(evaluations)
        for budget in self.pipe.budgets:
            if budget.fit == facts and not budget.mismatch(self.pipe, guidance):
                return Outcome(evaluations, budget, budget.error, budget.default_error)
        return None

    def outcome(self, evaluations: int) -> Outcome:
        """The sampler for a number of evaluations, measured on other seeds."""
        pipe, guidance = self.pipe, self.pipe.guidance_of(self.asked)
        pair = self._pair(evaluations)
        error = self._error(*pair)
        default_error = self._error(*self._default(evaluations))
        if not error < default_error:
            return Outcome(evaluations, None, error, default_error)
        sampler, first_sampler = pair
        first, calls = None, self.search.calls_of(sampler)
        if self.first is not None and first_sampler is not None:
            first = FittedSampler.of(self.first.pipe, first_sampler)
            calls += self.first.search.calls_of(first_sampler)
        own = FittedSampler.of(pipe, sampler, guidance)
        budget = Budget(calls, own, error, default_error, first, self._facts(evaluations))
        return Outcome(evaluations, budget, error, default_error)

    def _error(self, sampler: SamplingLoop, first_sampler: SamplingLoop | None) -> float:
        """The error on the seeds that nothing was fitted on, from noise to the image."""
        check = self.check
        if first_sampler is not None:
            check = check.begun_with(first_sampler, self.told)
        return check.error(sampler, self.told)

    def _default(self, evaluations: int) -> tuple[SamplingLoop, SamplingLoop | None]:
        """The model's own sampler with as many steps as the evaluations allow. Where a relay's
        first stage takes too many, it takes its share of them."""
        pipe, first = self.pipe, self.pipe.start.pipeline
        one = replace(self.asked, seeds=(0,))
        if first is None:
            return pipe.sampler_of(within_few(pipe, one, evaluations)), None
        other = evaluations_of(first, ONE)
        share = round(evaluations * other / (other + self._own_evaluations()))
        first_sampler = first.sampler_of(within_few(first, ONE, max(share, 1)))
        one = replace(one, first_sampler=first_sampler)
        return pipe.sampler_of(within_few(pipe, one, evaluations)), first_sampler

    def _pair(self, evaluations: int) -> tuple[Sampler, Sampler | None]:
        """The best sampler, and a relay's second stage and first."""
        if self.first is None:
            return self.fitted(self.search, self.began(evaluations)), None
        share = self._share(evaluations)
        first = self.first.fitted(self.first.search, self.first.began(share))
        # It begins with what the first stage makes, whose errors it may put right.
        problem = self.search.begun_with(first, self.told)
        return self.fitted(problem, self.began(evaluations - share)), first

    def _share(self, evaluations: int) -> int:
        """How many of a relay's evaluations are its first stage's: what comes nearest to the
        converged images from end to end, with the best samplers of the grid."""
        assert self.first is not None
        steps = [f.search.calls_at(f.pipe.sampler.sigma_start) for f in (self.first, self)]
        shares = {steps[0] * max(1, round(s * evaluations / steps[0])) for s in SPLITS}
        shares = {share for share in shares if evaluations - share >= steps[1]}
        if not shares:
            raise OvertoneError(
                f"one step of each stage takes {sum(steps)} function evaluations per image,"
                f" guidance included: {evaluations} are too few."
            )
        few = self.search.part(SPLIT_IMAGES)

        def error(share: int) -> float:
            assert self.first is not None
            begun = few.begun_with(self.first.began(share), self.told)
            return begun.error(self.began(evaluations - share), self.told)

        return min(sorted(shares), key=error)

    def began(self, evaluations: int) -> Sampler:
        """The best sampler of the grid."""
        if evaluations in self.known:
            return self.known[evaluations]
        found = searched(self.search, evaluations, self.settings.trials, self.told)
        if found is None:
            fewest = self.search.calls_at(self.pipe.sampler.sigma_start)
            raise OvertoneError(
                f"one step takes {counted(fewest, 'function evaluation')} an image, guidance"
                f" included: {evaluations} are too few."
            )
        self.known[evaluations] = found
        return found

    def fitted(self, problem: Problem, began: Sampler) -> Sampler:
        """A sampler that is nearer to some converged images than the one that it began with."""
        if not self.settings.iterations:
            return began
        facts = settings_files.dump(self.settings) | {"began": settings_files.dump(began)}
        first = problem.request.first_sampler
        facts["first"] = None if first is None else settings_files.dump(first)
        facts.pop("evaluations")
        with self._state(facts) as state:
            return descend(problem, began, self.settings, state=state, told=self.told)

    @contextlib.contextmanager
    def _state(self, facts: dict[str, Any]) -> Iterator[Path]:
        """Where a descent is kept while it is not finished."""
        file = self._file("descent", facts)
        yield file
        file.unlink(missing_ok=True)

    def _facts(self, evaluations: int) -> dict[str, bool | int | float | str]:
        """How a sampler is found."""
        from overtone import __version__

        own = settings_files.dump(self.settings)
        names = ("search_images", "check_images", "iterations", "batch_size", "trials", "weights")
        facts = {name.replace("_", " "): own[name] for name in (*names, "epsilon_scale", "way")}
        return {"asked for": evaluations, **facts, "overtone": __version__}
