"""A network under a preconditioning: the denoiser that is trained."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from overtone.denoisers.denoiser import Denoiser, Estimate, Images, Labels, Sigma
from overtone.denoisers.preconditioning import (
    EDMPreconditioning,
    Preconditioning,
    VEPreconditioning,
    VPPreconditioning,
    scaled,
)


class NetworkDenoiser(Denoiser):
    """D(x; sigma) = c_skip x + c_out F(c_in x; c_noise, class_labels), F a network.

    The network sees float32, or float64 if its weights are, and returns the same unless autocast is
    on; the sum is in x's dtype. A network
    with twice the channels (learned variance) returns F and, untouched, `variance`. `num_classes`
    is the network's; augmentation conditions go to networks that take them.
    """

    def __init__(self, network: nn.Module, preconditioning: Preconditioning) -> None:
        super().__init__()
        self.network = network
        self.preconditioning = preconditioning
        config: Any = network.config
        self.num_classes = config.num_classes
        self.has_null_class = getattr(config, "knows_null_class", True)

    def forward(
        self,
        x: Images,
        sigma: Sigma,
        class_labels: Labels | None = None,
        augment_labels: Float[Tensor, "batch conditions"] | None = None,
    ) -> Estimate:
        # Only networks with augmentation conditions take the argument.
        conditions = () if augment_labels is None else (augment_labels,)
        level: Any = sigma
        if isinstance(sigma, Tensor) and sigma.dim():
            level = sigma[:, None, None, None].to(x.dtype)
        own = self.preconditioning
        out = self.network(
            scaled(own.c_in(level), x).to(self.dtype),
            self.time(sigma, x),
            class_labels,
            *conditions,
        )
        out, variance = out.to(x.dtype), None
        if out.shape[1] == 2 * x.shape[1]:
            out, variance = out.chunk(2, dim=1)
        return Estimate(own.estimate(x, level, out), variance)

    def time(self, sigma: Sigma, x: Tensor) -> Float[Tensor, " batch"]:
        """c_noise as the network takes it: one an image, on x's device."""
        time = self.preconditioning.c_noise(sigma)
        if isinstance(time, Tensor):
            return time.to(x.device, self.dtype).expand(len(x))
        return torch.full((len(x),), time, dtype=self.dtype, device=x.device)

    def relative_time(self, sigma: float) -> float | None:
        schedule = self.preconditioning.schedule_of_time
        return None if schedule is None else schedule.share_below(sigma)


class EDMDenoiser(NetworkDenoiser):
    """A network under `EDMPreconditioning`. A number stands for its `sigma_data`."""

    def __init__(
        self, network: nn.Module, preconditioning: EDMPreconditioning | float = 0.5
    ) -> None:
        if isinstance(preconditioning, float | int):
            preconditioning = EDMPreconditioning(preconditioning)
        super().__init__(network, preconditioning)


class VPDenoiser(NetworkDenoiser):
    """A variance-preserving network (DDPM, DDIM, latent diffusion)."""

    def __init__(
        self, network: nn.Module, preconditioning: VPPreconditioning | None = None
    ) -> None:
        super().__init__(network, preconditioning or VPPreconditioning())


class VEDenoiser(NetworkDenoiser):
    """A variance-exploding network (NCSN++), whose output is minus the noise."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, VEPreconditioning())
