"""The temporal convolution of DSNO (Zheng et al. 2023, arXiv 2211.13449), by complex FFTs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def written(u: Tensor, weight: Tensor) -> Tensor:
    """u + leaky_relu(irfft(R rfft(u))) over the times of u (batch, times, channels, height, width);
    R is complex (channels in, channels out, modes)."""
    transformed = torch.fft.rfft(u, dim=1)
    product = torch.zeros_like(transformed)
    kept = transformed[:, : weight.shape[2]]
    product[:, : weight.shape[2]] = torch.einsum("bmihw,iom->bmohw", kept, weight)
    return u + F.leaky_relu(torch.fft.irfft(product, n=u.shape[1], dim=1), 0.01)


def complex_weight(layer: Any) -> Tensor:
    """The weight of Overtone's layer of two modes as complex numbers."""
    parts = layer.weight[:, 0]
    first = torch.complex(parts[0], torch.zeros_like(parts[0]))
    return torch.stack((first, torch.complex(parts[1], parts[2])), -1)
