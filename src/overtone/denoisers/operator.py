"""The solution operator: a network that knows where the probability-flow ODE leads, all at once.

DSNO (Zheng et al. 2022, arXiv 2211.13449). It stands where a denoiser stands, and answers another
question: not what the clean image is expected to be, but what x will be at other noise levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from overtone.denoisers.denoiser import Images, Labels, Model
from overtone.denoisers.preconditioning import OperatorPreconditioning
from overtone.networks.dsno import OperatorNetwork

States = Float[Tensor, "batch some_times channels height width"]


class SolutionOperator(Model):
    """Maps x at one noise level to x at lower ones by one evaluation of a network (DSNO, Zheng et
    al. 2022, arXiv 2211.13449).

    States are given and returned in the variance-preserving frame, z = x / sqrt(1 + sigma^2): the
    network sees noise of unit variance and its outputs are the states themselves. `solve` does the
    same in the frame of samplers, x = mean(x_0, sigma) + sigma noise.
    """

    is_operator = True
    has_null_class = False
    """An operator takes no guidance: its teacher's guidance is built into it."""

    def __init__(
        self, network: OperatorNetwork, preconditioning: OperatorPreconditioning | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.preconditioning = preconditioning or OperatorPreconditioning()
        self.num_classes: int = network.config.num_classes
        self._kept: dict[tuple[tuple[float, ...], torch.device, torch.dtype], Tensor] = {}

    def forward(
        self,
        z: Images,
        sigmas: Sequence[float],
        class_labels: Labels | None = None,
        last_only: bool = False,
    ) -> States:
        """z at each of the noise levels, falling; or at the last one alone."""
        times = self.times(tuple(sigmas), z.device)
        return self.network(z.to(self.dtype), times, class_labels, last_only).to(z.dtype)

    def solve(
        self,
        x: Images,
        sigma: float,
        sigmas: Sequence[float],
        class_labels: Labels | None = None,
        last_only: bool = False,
    ) -> list[Tensor]:
        """x at each of `sigmas`, from x at `sigma`; or at the last one alone."""
        own = self.preconditioning
        states = self(own.c_in(sigma) * x, sigmas, class_labels, last_only)
        levels = sigmas[-1:] if last_only else sigmas
        return [own.c_out(s) * z for s, z in zip(levels, states.unbind(1), strict=True)]

    def times(self, sigmas: tuple[float, ...], device: torch.device) -> Float[Tensor, " times"]:
        """The network's times at noise levels, sent to each device once."""
        key = sigmas, device, self.dtype
        if key not in self._kept:
            with torch.inference_mode(False):  # else training could not use them later
                own = [self.preconditioning.c_noise(sigma) for sigma in sigmas]
                self._kept[key] = torch.tensor(own, dtype=self.dtype).to(device)
        return self._kept[key]
