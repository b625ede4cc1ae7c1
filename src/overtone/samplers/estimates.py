"""Ways to form the estimate x~ of the clean image that a sampler's step is taken with.

Every sampler takes the same step (`Sampler.advance`), which is exact wherever the estimate is
constant in sigma; they differ in the estimate. Each form is given

    denoise(x, sigma) -> x_0       one network evaluation
    advance(x~) -> x'              the step to sigma_next with that estimate
    x, sigma, sigma_next           where the step starts, and the level it leads to
    history                        what it returned a step before, () at first

and returns the estimate and the history for the next step. Multistep forms add to the estimate at
sigma, x_0^n, a share of what earlier ones were,

    x~ = x_0^n + sum_k w_k (x_0^{n-k} - x_0^n)

so that an estimate that does not change stays exact. Their weights are functions of
lambda = -ln sigma. Noise levels are numbers, or tensors without dimensions that carry gradients.
Orders below are measured in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    Denoise = Callable[[Tensor, Any], Tensor]
    Advance = Callable[[Tensor], Tensor]
    Form = Callable[[Denoise, Advance, Tensor, Any, Any, "History"], tuple[Tensor, "History"]]

EstimateKind = Literal[
    "single",
    "averaged_slopes",
    "averaged_estimates",
    "two_step",
    "three_step",
    "weighted",
    "ddim",
    "euler",
    "heun",
    "dpmpp_2m",
]
"""Forms of the estimate; the last four are the field's names of the first, second and fourth."""

SYNONYMS: dict[str, EstimateKind] = {
    "ddim": "single",
    "euler": "single",
    "heun": "averaged_slopes",
    "dpmpp_2m": "two_step",
}
"""What the field calls them: DDIM is Euler's step in sigma, DPM-Solver++(2M) the estimate
extrapolated from the last two."""

S = Any
"""a number, or a tensor without dimensions: what comes out is what went in"""
Weights = Callable[[Sequence[S], S], Sequence[S]]
"""lambdas of this estimate and those before, the latest first, and of the next level -> w_1, ..."""


class Past(NamedTuple):
    """An earlier estimate, and the noise level it was made at."""

    x_0: Tensor
    sigma: S


History = tuple[Past, ...]
"""earlier estimates, the latest first"""


def single_weights(lambdas: Sequence[S], following: S) -> tuple[S, ...]:
    """None: x~ = D(x; sigma) is Euler's step, DDIM. First order, one evaluation."""
    return ()


def two_step_weights(lambdas: Sequence[S], following: S) -> tuple[S, ...]:
    """w_1 = -h / (2 h_1), h = lambda' - lambda the step and h_1 the one before.

    The last estimate extrapolated to the middle of the step (DPM-Solver++(2M), Lu et al. 2022,
    arXiv 2211.01095): one evaluation, and second order for many steps. Below some 64 steps under
    blur the measured order varies between 0.8 and 2.8, and the error is the smallest of the forms
    all the same. The first step, which has no history, is single.
    """
    if len(lambdas) < 2:
        return ()
    return (-(following - lambdas[0]) / (2 * (lambdas[0] - lambdas[1])),)


def three_step_weights(lambdas: Sequence[S], following: S) -> tuple[S, ...]:
    """The parabola through the last three estimates, in its mean over the step:

        x' = sigma'/sigma x + sigma' int e^lambda x_0(lambda) dlambda

    is solved exactly for it (an exponential multistep method, Zhang & Chen 2023, arXiv 2204.13902).
    With h the step, h_1 and h_2 those before, and the moments m_k = int e^l l^k dl / int e^l dl of
    l in [0, h],

        b = (m_2 + h_1 m_1) / (h_1 + h_2)
        w_1 = -(m_1 + b) / h_1 - b / h_2        w_2 = b / h_2

    One evaluation, third order. The second step is `two_step`'s.
    """
    if len(lambdas) < 3:
        return two_step_weights(lambdas, following)
    h, h_1, h_2 = following - lambdas[0], lambdas[0] - lambdas[1], lambdas[1] - lambdas[2]
    slope = h / (1 - math.e ** (-h))
    m_1 = slope - 1
    m_2 = h * slope - 2 * m_1
    b = (m_2 + h_1 * m_1) / (h_1 + h_2)
    return -(m_1 + b) / h_1 - b / h_2, b / h_2


MULTISTEP: dict[str, tuple[Weights, int]] = {
    "single": (single_weights, 0),
    "two_step": (two_step_weights, 1),
    "three_step": (three_step_weights, 2),
}
"""Weights by form, and how many earlier estimates they take."""


def multistep(weights: Weights, reach: int) -> Form:
    """A form from weights that take at most `reach` earlier estimates. The last step, to 0, is
    taken with the estimate as it is."""

    def form(
        denoise: Denoise,
        advance: Advance,
        x: Tensor,
        sigma: S,
        sigma_next: S,
        history: History,
    ) -> tuple[Tensor, History]:
        x_0 = denoise(x, sigma)
        known = tuple(_falling(history, sigma))
        estimate = x_0
        if sigma_next > 0:
            lambdas = [_lambda(sigma), *(_lambda(past.sigma) for past in known)]
            estimate = _joined(x_0, weights(lambdas, _lambda(sigma_next)), known)
        return estimate, (Past(x_0, sigma), *known)[:reach]

    return form


def weighted(earlier: Any) -> Form:
    """Step n, counted from 0, takes the n weights of its own: rows of a triangle one behind the
    other, numbers or a tensor, the latest estimate's first. The last step, to 0, has a row too.

    Weights that were fitted to a model (`overtone fit`) are a non-stationary solver of its own
    (Shaul et al. 2024, arXiv 2403.01329).
    """

    def form(
        denoise: Denoise,
        advance: Advance,
        x: Tensor,
        sigma: S,
        sigma_next: S,
        history: History,
    ) -> tuple[Tensor, History]:
        x_0, number = denoise(x, sigma), len(history)
        row = earlier[number * (number - 1) // 2 :][:number]
        return _joined(x_0, row, history), (Past(x_0, sigma), *history)

    return form


def _joined(x_0: Tensor, weights: Iterable[S], history: History) -> Tensor:
    estimate = x_0
    for weight, past in zip(weights, history, strict=False):
        if not (isinstance(weight, float) and weight == 0):
            estimate = estimate + weight * (past.x_0 - x_0)
    return estimate


def _lambda(sigma: S) -> S:
    return -math.log(sigma) if isinstance(sigma, float | int) else -sigma.log()


def _falling(history: History, sigma: S) -> Iterator[Past]:
    """The latest estimates from ever higher noise levels: churn can raise sigma past the last."""
    for past in history:
        if not past.sigma > sigma:
            return
        yield past
        sigma = past.sigma


def averaged_slopes(
    denoise: Denoise,
    advance: Advance,
    x: Tensor,
    sigma: S,
    sigma_next: S,
    _: History,
) -> tuple[Tensor, History]:
    """x~ = x - sigma (d + d') / 2 with slopes d = (x - D(x; sigma)) / sigma, here and after a step.

    Heun's method, as in EDM's Algorithm 2, where the process's mean is the identity: second order,
    two evaluations. With eta > 0 the second slope sees the noise of the step before it is drawn
    again, which adds to the noise level: the other forms keep it.
    """
    x_0 = denoise(x, sigma)
    if sigma_next == 0:
        return x_0, ()
    x_next = advance(x_0)
    slope = (x - x_0) / sigma
    slope_next = (x_next - denoise(x_next, sigma_next)) / sigma_next
    return x - sigma / 2 * (slope + slope_next), ()


def averaged_estimates(
    denoise: Denoise,
    advance: Advance,
    x: Tensor,
    sigma: S,
    sigma_next: S,
    _: History,
) -> tuple[Tensor, History]:
    """x~ = (D(x; sigma) + D(x'; sigma')) / 2: second order for any process, two evaluations."""
    x_0 = denoise(x, sigma)
    if sigma_next == 0:
        return x_0, ()
    return (x_0 + denoise(advance(x_0), sigma_next)) / 2, ()


FORMS: dict[EstimateKind, Form] = {
    "single": multistep(*MULTISTEP["single"]),
    "averaged_slopes": averaged_slopes,
    "averaged_estimates": averaged_estimates,
    "two_step": multistep(*MULTISTEP["two_step"]),
    "three_step": multistep(*MULTISTEP["three_step"]),
}
"""The forms that follow from the noise levels alone."""
AVERAGED = tuple(form for form in FORMS if form not in MULTISTEP)
"""Those that ask the denoiser at both ends of a step."""


def triangle(form: str, levels: Sequence[float]) -> tuple[float, ...]:
    """The weights of a multistep form at these noise levels, falling and without the final 0, as
    `weighted` takes them: what it does, told step by step."""
    weights, reach = MULTISTEP[form]
    lambdas = [-math.log(level) for level in levels]
    rows: list[float] = []
    for number in range(len(levels)):
        known = list(islice(reversed(lambdas[: number + 1]), reach + 1))
        last = number + 1 == len(levels)
        row = () if last else weights(known, lambdas[number + 1])
        rows += (*row, *(0.0,) * (number - len(row)))
    return tuple(rows)
