"""Budgets: samplers fitted to a model, each for a number of function evaluations.

`overtone fit` finds them, and they are saved with the pipeline. A request for `evaluations` is
answered by the sampler that was fitted for so many, under the guidance that is asked for
and with these weights; otherwise by the model's own sampler, with as many steps as they allow,
which is said. A request for a `tolerance` is answered by the fewest evaluations whose error was
below it where they were fitted: by the model, and not by the image, so that an image remains a
function of its seed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from overtone.denoisers.guidance import GuidanceSettings
from overtone.errors import OvertoneError, counted
from overtone.ranges import Count, NotNegative, check_fields
from overtone.samplers.loop import SamplingLoop

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline
    from overtone.pipelines.request import Request

FEW = 20
"""evaluations below which a sampler takes the form that suits them"""


@dataclass(frozen=True)
class FittedSampler:
    """A sampler, and what it was fitted to."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    sampler: SamplingLoop
    guidance: GuidanceSettings
    weights: str
    """The digest of the network's weights."""

    @classmethod
    def of(
        cls, pipe: Pipeline, sampler: SamplingLoop, guidance: GuidanceSettings | None = None
    ) -> FittedSampler:
        """A sampler that was fitted to a pipeline."""
        from overtone.networks.network import digest_of

        return cls(sampler, guidance or pipe.guidance, digest_of(pipe.network))


@dataclass(frozen=True)
class Budget:
    """A sampler for a number of function evaluations."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    evaluations: Count
    """The function evaluations per image, guidance and a first stage included."""
    own: FittedSampler
    error: NotNegative
    """The root mean square distance of images in [-1, 1] to the converged ones, for other seeds
    than the sampler was fitted to."""
    default_error: NotNegative
    """The same distance for the model's own sampler, with as many steps as the evaluations
    allow."""
    first: FittedSampler | None = None
    """The sampler of a relay's first stage."""
    fit: dict[str, bool | int | float | str] = field(default_factory=dict)
    """How the sampler was found."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def asked(self) -> int:
        """The evaluations that were allowed, of which a relay's stages may leave some."""
        asked = self.fit.get("asked for")
        return asked if isinstance(asked, int) else self.evaluations

    def mismatch(self, pipe: Pipeline, guidance: GuidanceSettings) -> str:
        """What keeps it from a pipeline under some guidance, in words; "" for nothing."""
        from overtone.networks.network import digest_of

        first = pipe.start.pipeline
        pairs = [(self.own, guidance, pipe)]
        if (self.first is None) != (first is None):
            return "fitted with another first stage"
        if self.first is not None and first is not None:
            pairs.append((self.first, first.guidance, first))
        for fitted, asked, model in pairs:
            if fitted.guidance != asked:
                scale = fitted.guidance.scale
                other = f"scale {scale:g}" if scale != asked.scale else "other settings"
                return f"fitted under guidance with {other}"
            if fitted.weights != digest_of(model.network):
                return "fitted to other weights"
        return ""


def settled(pipe: Pipeline, request: Request) -> Request:
    """The request with a sampler in the place of its `evaluations` or its `tolerance`.

    Raises `OvertoneError` for a tolerance that no budget meets, and for evaluations that no number
    of steps fits into.
    """
    if request.evaluations is None and request.tolerance is None:
        return request
    asked = replace(request, evaluations=None, tolerance=None)
    if request.tolerance is not None:
        return _with(asked, _within_tolerance(pipe, asked, request.tolerance))
    assert request.evaluations is not None
    count = request.evaluations
    there = [budget for budget in pipe.budgets if budget.evaluations == count]
    there += [budget for budget in pipe.budgets if budget not in there and budget.asked == count]
    found, reasons = _matching(pipe, asked, there)
    if found:
        return _with(asked, found[0])
    why = reasons[0] if reasons else "no sampler was fitted for as many"
    if not there and pipe.budgets:
        known = ", ".join(str(n) for n in sorted({b.evaluations for b in pipe.budgets}))
        why += f" (there are samplers for {known})"
    try:
        settled = within_few(pipe, asked, count)
    except OvertoneError as error:
        raise OvertoneError(
            f"{counted(count, 'function evaluation')}: {why}, and {error}"
        ) from None
    steps = "" if settled.steps is None else f", with {counted(settled.steps, 'step')}"
    form = "" if settled.sampler in (None, pipe.sampler) else f" of {settled.sampler.solver}"
    print(
        f"{counted(count, 'function evaluation')}: {why}; the model's own sampler is used"
        f"{steps}{form}.",
        file=sys.stderr,
    )
    return settled


def within_few(pipe: Pipeline, request: Request, evaluations: int) -> Request:
    """The request with as many steps of the pipeline's own sampler as evaluations allow; where they
    are few, in the form that suits them."""
    if evaluations < FEW:
        request = replace(request, sampler=pipe.sampler.frugal)
    return pipe.within(request, evaluations)


def _within_tolerance(pipe: Pipeline, asked: Request, tolerance: float) -> Budget:
    found, reasons = _matching(pipe, asked, pipe.budgets)
    within = [budget for budget in found if budget.error <= tolerance]
    if within:
        return min(within, key=lambda budget: budget.evaluations)
    if found:
        best = min(found, key=lambda budget: budget.error)
        raise OvertoneError(
            f"no sampler fitted to this model has an error of {tolerance:g} or less: the smallest"
            f" is {best.error:.3g}, with {best.evaluations} function evaluations. overtone fit"
            " MODEL --evaluations N fits one for more."
        )
    why = f": there are some {reasons[0]}" if reasons else ""
    raise OvertoneError(
        "--tolerance needs a sampler that was fitted to the model and its guidance, and there is"
        f" none{why}. overtone fit MODEL --evaluations N fits one."
    )


def _matching(pipe: Pipeline, asked: Request, budgets: Any) -> tuple[list[Budget], list[str]]:
    """The budgets that are for a pipeline as a request asks for it, and why others are not."""
    if asked.guide is not None:
        return [], ["a sampler is fitted without a guide"] if budgets else []
    guidance = pipe.guidance_of(asked)
    told = [(budget, budget.mismatch(pipe, guidance)) for budget in budgets]
    return (
        [budget for budget, why in told if not why],
        [f"the sampler for as many was {why}" for _, why in told if why],
    )


def _with(request: Request, budget: Budget) -> Request:
    first = None if budget.first is None else budget.first.sampler
    return replace(request, sampler=budget.own.sampler, first_sampler=first)
