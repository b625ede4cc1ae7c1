"""Preconditioning: how a network that sees unit-variance inputs becomes a denoiser."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from overtone.denoisers.denoiser import Denoiser, Estimate, Images, Labels
from overtone.networks import Network


class EDMDenoiser(Denoiser):
    """EDM's preconditioned denoiser (Karras et al. 2022, arXiv 2206.00364, equation 7, table 1).

        D(x; sigma) = c_skip x + c_out F(c_in x; c_noise, labels),   s_d = sigma_data
        c_skip = s_d^2 / (sigma^2 + s_d^2)     c_out = sigma s_d / sqrt(sigma^2 + s_d^2)
        c_in   = 1 / sqrt(sigma^2 + s_d^2)     c_noise = ln(sigma) / 4

    The network F sees and returns float32 unless autocast is on; the sum is in x's dtype.
    """

    def __init__(self, network: Network, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data
        self.num_classes = network.config.num_classes

    def forward(
        self,
        x: Images,
        sigma: float | Float[Tensor, " batch"],
        class_labels: Labels | None = None,
        augment_labels: Float[Tensor, "batch conditions"] | None = None,
    ) -> Estimate:
        level = sigma[:, None, None, None].to(x.dtype) if isinstance(sigma, Tensor) else sigma
        variance = level**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = level * self.sigma_data / variance**0.5
        c_in = variance**-0.5
        if isinstance(sigma, Tensor):
            time = sigma.float().log() / 4
        else:
            time = torch.full((len(x),), math.log(sigma) / 4, device=x.device)
        # Only networks with augmentation conditions take the argument.
        condition = () if augment_labels is None else (augment_labels,)
        out = self.network((c_in * x).float(), time, class_labels, *condition)
        return Estimate(c_skip * x + c_out * out.to(x.dtype))
