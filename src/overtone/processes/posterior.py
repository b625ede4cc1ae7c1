"""The reverse step of a Gaussian process in closed form, and networks that learn its variance.

Between neighbouring noise levels sigma' < sigma, given the clean image, x' is Gaussian again:

    q(x' | x, x_0) = N(x_0 + r (x - x_0), sigma'^2 (1 - r)),   r = sigma'^2 / sigma^2

DDPM (Ho et al. 2020, arXiv 2006.11239) samples from it with an estimate for x_0. The best variance
lies between this one (its beta~) and that of data of unit variance (its beta). In Improved DDPM
(Nichol & Dhariwal 2021, arXiv 2102.09672, equation 15) the network returns v in [-1, 1], which says
where between them, in logarithms.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

LN_2 = math.log(2)
HALF_BIN = 1 / 255  # of a grey level, on values in [-1, 1]


class ReverseSteps:
    """The reverse steps of a ladder of noise levels: step i leads from sigma_i to sigma_{i - 1}.

    `levels` increase; step 0 leads to the image. All is float64 on the host, in the frame
    x = x_0 + sigma noise:

        ratio      r                                                        0 in step 0
        log_lower  ln beta~ = ln sigma'^2 (1 - r)
        log_upper  ln beta  = ln (1 + sigma'^2) (sigma^2 - sigma'^2) / (1 + sigma^2)

    Step 0 has no beta~, whose logarithm would be infinite; as published it takes that of step 1.
    """

    def __init__(self, levels: Float[Tensor, " steps"]) -> None:
        levels = levels.double()
        below = torch.cat((levels.new_zeros(1), levels[:-1]))
        self.ratio = (below / levels) ** 2
        lower = below**2 * (1 - self.ratio)
        if len(levels) > 1:
            # In step 1's variance-preserving frame, which step 0's differs from by alpha_0.
            lower[0] = lower[1] / (1 + levels[0] ** 2)
        self.log_upper = torch.log((1 + below**2) * (levels**2 - below**2) / (1 + levels**2))
        self.log_lower = lower.log() if len(levels) > 1 else self.log_upper


def log_variance(v: Tensor, log_lower: float | Tensor, log_upper: float | Tensor) -> Tensor:
    """ln of the reverse step's variance from the network's v: -1 is `log_lower`, 1 `log_upper`."""
    return log_lower + (v + 1) / 2 * (log_upper - log_lower)


def variational_bound(
    error: Float[Tensor, "*shape"],
    log_variance: Float[Tensor, "*#shape"],
    ratio: Tensor,
    log_lower: Tensor,
    x_0: Float[Tensor, "*shape"],
    bounded: bool = True,
) -> Float[Tensor, "*shape"]:
    """A step's term of the bound on -log2 p(x_0), for each value, in bits.

    `ratio` and `log_lower` are those of `ReverseSteps`, broadcast against the values.

    The reverse step's mean lies (1 - r) (x_0 - D) from the posterior's, D the estimate and `error`
    = D - x_0. Above step 0 the term is the divergence of the two Gaussians,

        KL = (ln p - ln q - 1 + q / p + (1 - r)^2 error^2 / p) / 2,   p, q their variances

    and in step 0, where r = 0, -ln of the probability that N(D, p) comes within 1/255 of x_0, half
    a grey level; of `bounded` values (pixels in [-1, 1]) the outermost bins have no outer end.
    """
    inverse = torch.exp(-log_variance)
    divergence = (log_variance - log_lower - 1 + torch.exp(log_lower) * inverse) / 2
    divergence = divergence + (1 - ratio) ** 2 * error**2 * inverse / 2
    scale = torch.exp(-log_variance / 2)
    above = torch.special.ndtr((HALF_BIN - error) * scale)
    below = torch.special.ndtr((-HALF_BIN - error) * scale)
    if bounded:
        above = torch.where(x_0 > 0.999, 1.0, above)
        below = torch.where(x_0 < -0.999, 0.0, below)
    likelihood = -torch.log((above - below).clamp(min=1e-12))
    return torch.where(ratio == 0, likelihood, divergence) / LN_2
