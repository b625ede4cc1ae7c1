"""Adam's step on gradients that are scaled down to a norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from overtone.launch import whole


def step_clipped(optimizer: torch.optim.Optimizer, limit: float | None) -> Tensor:
    """One step of a fused Adam; returns the norm of the gradients as they were, on the device.

        g <- g / max(1, norm / limit),   norm = |g| over all parameters

    The division is left to the optimizer's kernel, which reads every gradient anyway, as it would
    be for a loss scaled by automatic mixed precision. A pass over all gradients of its own is what
    `clip_grad_norm_` takes, even where there is nothing to clip. `limit` None scales nothing.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    total = whole(norm)
    if limit is None:
        optimizer.step()
        return total
    if total is not norm:  # each process has its part of every gradient, and of the norm
        nn.utils.clip_grads_with_norm_(parameters, limit, norm, foreach=True)
        optimizer.step()
        return total
    scale = (total / limit).clamp(min=1.0)
    # On a CPU looking costs nothing, and a gradient that is divided is written as well.
    needed = scale.device.type != "cpu" or float(scale) > 1
    optimizer.grad_scale = scale if needed else None  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    return total
