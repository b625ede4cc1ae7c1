"""Preconditioning: how a network that sees unit-variance inputs becomes a denoiser.

Each denoiser is made of a network and a few settings, a dataclass that is saved with a pipeline:
`PRECONDITIONERS[settings.kind](network, settings)`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import pydantic
import torch
from jaxtyping import Float
from torch import Tensor, nn

from overtone.denoisers.denoiser import Denoiser, Estimate, Images, Labels
from overtone.processes import AnySchedule, DiscreteSchedule, VPLinearSchedule

Sigma = float | Float[Tensor, " batch"]
Prediction = Literal["eps", "x", "v"]


@dataclass(frozen=True)
class EDMSettings:
    """Settings of `EDMDenoiser`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    sigma_data: float = 0.5
    """standard deviation of the data in [-1, 1]"""
    kind: Literal["EDMDenoiser"] = "EDMDenoiser"

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data must be above 0, not {self.sigma_data}")


@dataclass(frozen=True)
class VPSettings:
    """Settings of `VPDenoiser`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    prediction: Prediction = "eps"
    """what the network returns: the noise, the image, or v = alpha noise - sigma_vp image"""
    schedule: AnySchedule = field(default_factory=VPLinearSchedule)
    """gives the network its time"""
    time_scale: float = 999.0
    """the network's time at t = 1: the last step's number, for discrete schedules"""
    kind: Literal["VPDenoiser"] = "VPDenoiser"


@dataclass(frozen=True)
class VESettings:
    """Settings of `VEDenoiser`: none."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    kind: Literal["VEDenoiser"] = "VEDenoiser"


class NetworkDenoiser(Denoiser):
    """A network with what stands around it.

    `num_classes` is the network's; augmentation conditions go to networks that take them.
    """

    settings: Any

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        config: Any = network.config
        self.num_classes = config.num_classes

    def forward(
        self,
        x: Images,
        sigma: Sigma,
        class_labels: Labels | None = None,
        augment_labels: Float[Tensor, "batch conditions"] | None = None,
    ) -> Estimate:
        # Only networks with augmentation conditions take the argument.
        conditions = () if augment_labels is None else (augment_labels,)
        level = sigma[:, None, None, None].to(x.dtype) if isinstance(sigma, Tensor) else sigma
        return self.estimate(
            x,
            level,
            lambda scaled: self.network(
                scaled.float(), self.time(sigma, x), class_labels, *conditions
            ).to(x.dtype),
        )

    @abstractmethod
    def estimate(self, x: Tensor, sigma: float | Tensor, network: Any) -> Estimate:
        """The formula: sigma broadcasts against x, `network` maps a scaled x to the output."""

    @abstractmethod
    def time_of(self, sigma: float | Tensor) -> float | Tensor:
        """The network's time at a noise level."""

    def time(self, sigma: Sigma, x: Tensor) -> Float[Tensor, " batch"]:
        """`time_of` as the network takes it: float32, one an image, on x's device."""
        time = self.time_of(sigma)
        if isinstance(time, Tensor):
            return time.float()
        return torch.full((len(x),), time, device=x.device)


class EDMDenoiser(NetworkDenoiser):
    """EDM's preconditioned denoiser (Karras et al. 2022, arXiv 2206.00364, equation 7, table 1).

        D(x; sigma) = c_skip x + c_out F(c_in x; c_noise, labels),   s_d = sigma_data
        c_skip = s_d^2 / (sigma^2 + s_d^2)     c_out = sigma s_d / sqrt(sigma^2 + s_d^2)
        c_in   = 1 / sqrt(sigma^2 + s_d^2)     c_noise = ln(sigma) / 4

    The network F sees and returns float32 unless autocast is on; the sum is in x's dtype.
    """

    def __init__(self, network: nn.Module, settings: EDMSettings | float = 0.5) -> None:
        super().__init__(network)
        self.settings = EDMSettings(settings) if isinstance(settings, float | int) else settings

    @property
    def sigma_data(self) -> float:
        return self.settings.sigma_data

    def estimate(self, x: Tensor, sigma: float | Tensor, network: Any) -> Estimate:
        variance = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data / variance**0.5
        return Estimate(c_skip * x + c_out * network(variance**-0.5 * x))

    def time_of(self, sigma: float | Tensor) -> float | Tensor:
        return sigma.log() / 4 if isinstance(sigma, Tensor) else math.log(sigma) / 4


class VPDenoiser(NetworkDenoiser):
    """A variance-preserving network (DDPM, DDIM, latent diffusion) as a denoiser.

    Such a network sees x_vp = alpha x_0 + s noise = alpha x, alpha = 1 / sqrt(1 + sigma^2) and
    s = sigma alpha, at its own time, `time_scale` schedule.t(sigma). From its output F,

        "eps"   x_0 = x - sigma F          F estimates the noise
        "x"     x_0 = F
        "v"     x_0 = alpha^2 x - s F      F estimates alpha noise - s x_0

    A network with twice the channels (learned variance) returns F and, untouched, `variance`.
    """

    def __init__(self, network: nn.Module, settings: VPSettings | None = None) -> None:
        super().__init__(network)
        self.settings = settings or VPSettings()

    def estimate(self, x: Tensor, sigma: float | Tensor, network: Any) -> Estimate:
        alpha = (1 + sigma**2) ** -0.5
        out, variance = network(alpha * x), None
        if out.shape[1] == 2 * x.shape[1]:
            out, variance = out.chunk(2, dim=1)
        return Estimate(vp_estimate(x, sigma, out, self.settings.prediction), variance)

    def time_of(self, sigma: float | Tensor) -> float | Tensor:
        time = self.settings.time_scale * self.settings.schedule.t(sigma)
        return time if isinstance(sigma, Tensor) else time.item()

    def relative_time(self, sigma: float) -> float | None:
        return self.settings.schedule.share_below(sigma)


class VEDenoiser(NetworkDenoiser):
    """A variance-exploding network (NCSN++), whose output is minus the noise:

        D(x; sigma) = x + sigma F(x; ln(sigma / 2))

    as in EDM's table 1.
    """

    def __init__(self, network: nn.Module, settings: VESettings | None = None) -> None:
        super().__init__(network)
        self.settings = settings or VESettings()

    def estimate(self, x: Tensor, sigma: float | Tensor, network: Any) -> Estimate:
        return Estimate(x + sigma * network(x))

    def time_of(self, sigma: float | Tensor) -> float | Tensor:
        return (sigma / 2).log() if isinstance(sigma, Tensor) else math.log(sigma / 2)


def vp_estimate(x: Tensor, sigma: float | Tensor, out: Tensor, prediction: Prediction) -> Tensor:
    """x_0 from the output of a variance-preserving network: the table of `VPDenoiser`."""
    if prediction == "x":
        return out
    if prediction == "eps":
        return x - sigma * out
    variance = 1 + sigma**2
    return x / variance - sigma / variance**0.5 * out


def vp_output(x: Tensor, sigma: float, x_0: Tensor, prediction: Prediction) -> Tensor:
    """The inverse of `vp_estimate`: what a network with that estimate would have returned."""
    if prediction == "x":
        return x_0
    if prediction == "eps":
        return (x - x_0) / sigma
    variance = 1 + sigma**2
    return (x / variance - x_0) * (variance**0.5 / sigma)


ADM_DIFFUSION = VPSettings(prediction="eps", schedule=DiscreteSchedule(), time_scale=999.0)
"""ADM's and DDPM's: the noise predicted, at the 1000 levels of linear betas."""

DenoiserSettings = Annotated[
    EDMSettings | VPSettings | VESettings, pydantic.Field(discriminator="kind")
]

PRECONDITIONERS: dict[str, Any] = {
    kind.__name__: kind for kind in (EDMDenoiser, VPDenoiser, VEDenoiser)
}
