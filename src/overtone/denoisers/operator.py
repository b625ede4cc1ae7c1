"""The solution operator: a network that knows where the probability-flow ODE leads, all at once.

DSNO (Zheng et al. 2022, arXiv 2211.13449). It stands where a denoiser stands, and answers another
question: not what the clean image is expected to be, but what x will be at other noise levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from overtone.denoisers.denoiser import Images, Labels
from overtone.denoisers.precond import PRECONDITIONERS, DenoiserSettings
from overtone.networks import DSNOUNet, OperatorNetwork
from overtone.processes import FLOW_TIME, VPCosineSchedule, from_vp, to_vp

States = Float[Tensor, "batch some_times channels height width"]


@dataclass(frozen=True)
class OperatorSettings:
    """Settings of `SolutionOperator`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    teacher: DenoiserSettings | None = None
    """what stood around the network that the operator's grew from, whose time it is told; none:
    t in [0, 1] of the log-SNR cosine schedule, as published"""
    sigma_min: float = 0.002
    """the lowest noise level that a teacher's network is told of, in the place of 0"""
    kind: Literal["SolutionOperator"] = "SolutionOperator"

    def __post_init__(self) -> None:
        if not self.sigma_min > 0:
            raise ValueError(f"sigma_min must be above 0, not {self.sigma_min}")


class SolutionOperator(nn.Module):
    """From x at a noise level to x at others, by one evaluation of a network.

    States are given and returned in the variance-preserving frame, z = x / sqrt(1 + sigma^2): the
    network sees noise of unit variance and its outputs are the states themselves. `solve` does the
    same in the frame of samplers, x = mean(x_0, sigma) + sigma noise.
    """

    has_null_class = False
    """what guidance there is was the teacher's"""

    def __init__(self, network: OperatorNetwork, settings: OperatorSettings | None = None) -> None:
        super().__init__()
        self.network = network
        self.settings = settings or OperatorSettings()
        self.num_classes: int = network.config.num_classes
        self._kept: dict[tuple[tuple[float, ...], torch.device], Tensor] = {}

    def forward(
        self,
        z: Images,
        sigmas: Sequence[float],
        class_labels: Labels | None = None,
        last_only: bool = False,
    ) -> States:
        """z at each of the noise levels, falling; or at the last one alone."""
        times = self.times(tuple(sigmas), z.device)
        return self.network(z.float(), times, class_labels, last_only).to(z.dtype)

    def solve(
        self,
        x: Images,
        sigma: float,
        sigmas: Sequence[float],
        class_labels: Labels | None = None,
        last_only: bool = False,
    ) -> list[Tensor]:
        """x at each of `sigmas`, from x at `sigma`; or at the last one alone."""
        states = self(to_vp(x, sigma), sigmas, class_labels, last_only)
        levels = sigmas[-1:] if last_only else sigmas
        return [from_vp(z, level) for z, level in zip(states.unbind(1), levels, strict=True)]

    def times(self, sigmas: tuple[float, ...], device: torch.device) -> Float[Tensor, " times"]:
        """The network's times at noise levels, sent to each device once."""
        if (sigmas, device) not in self._kept:
            with torch.inference_mode(False):  # else training could not use them later
                times = torch.tensor([self.time_of(sigma) for sigma in sigmas])
                self._kept[sigmas, device] = times.to(device, torch.float32)
        return self._kept[sigmas, device]

    def time_of(self, sigma: float) -> float:
        """The network's own time at a noise level."""
        if self.settings.teacher is not None:
            kind = PRECONDITIONERS[self.settings.teacher.kind]
            # Its time does not depend on the network in it.
            teacher = kind(self.network, self.settings.teacher)
            return float(teacher.time_of(max(sigma, self.settings.sigma_min)))
        if not isinstance(self.network, DSNOUNet):
            return float(FLOW_TIME.t(sigma))
        config = self.network.config
        return float(VPCosineSchedule(config.log_snr_min, config.log_snr_max).t(sigma))
