"""The sampler with noise levels and weights that carry gradients.

It takes the steps of `Sampler` with eta 0, on tensors: a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from overtone.samplers.estimates import FORMS, weighted

if TYPE_CHECKING:
    from overtone.processes.gaussian import Process
    from overtone.samplers.estimates import EstimateKind


def solved(
    denoiser: Any,
    process: Process,
    x: Tensor,
    labels: Tensor | None,
    sigmas: Sequence[Tensor],
    earlier: Tensor | None = None,
    *,
    estimate: EstimateKind = "single",
    epsilon_scale: Tensor | None = None,
    checkpointed: bool = False,
) -> Tensor:
    """The image of a start at sigmas[0].

    Arguments:
        sigmas: the noise levels, tensors without dimensions on the host, without the final 0.
        earlier: the weights of earlier estimates, as those of a `Sampler`.
        estimate: the form of the estimate, where there are no weights.
        checkpointed: keep no activations of the network: the backward pass evaluates it again.
    """

    def denoise(x: Tensor, sigma: Any) -> Tensor:
        if checkpointed and torch.is_grad_enabled():
            return checkpoint(_estimate, denoiser, x, sigma, labels, use_reentrant=False)
        return _estimate(denoiser, x, sigma, labels)

    form: Any = FORMS[estimate] if earlier is None else weighted(earlier)
    history: Any = ()
    for sigma, sigma_next in pairwise([*sigmas, 0.0]):

        def advance(x_0: Tensor, x: Tensor = x, here: Any = sigma, there: Any = sigma_next) -> Any:
            gamma = there / here
            if epsilon_scale is not None:
                gamma = 1 - (1 - gamma) / epsilon_scale
            return process.mean(x_0, there) + gamma * (x - process.mean(x_0, here))

        estimated, history = form(denoise, advance, x, sigma, sigma_next, history)
        last = isinstance(sigma_next, float) and epsilon_scale is None
        x = estimated if last else advance(estimated)
    return x


def _estimate(denoiser: Any, x: Tensor, sigma: Any, labels: Tensor | None) -> Tensor:
    return denoiser(x, sigma, labels).x_0
