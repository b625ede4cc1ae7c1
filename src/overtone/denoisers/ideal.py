"""Denoisers in closed form: the oracle that the tests measure everything else against."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from overtone.denoisers.denoiser import Denoiser, Estimate, Images, Labels, Sigma


class IdealDenoiser(Denoiser):
    """E[x_0 | x] for a mixture of Gaussians with one covariance S under white noise.

    With components m_k of equal weight, x flattened,

        D(x; sigma) = w + S (S + sigma^2)^-1 (x - w),   w = sum_k p_k(x) m_k,
        p_k(x) ~ exp(-(x - m_k)^T (S + sigma^2)^-1 (x - m_k) / 2)

    One component makes it the denoiser of a Gaussian; S = 0 that of a finite data set, whose
    images are the components. With `class_labels`, one a component, asking for a class restricts
    the mixture to its components.

    Arguments: `means` (components, channels, height, width); `covariance` (dims, dims) of the
    flattened image, None for zero; `class_labels` (components,).

    Examples:
        >>> points = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)  # two images of one pixel
        >>> ideal = IdealDenoiser(points)
        >>> estimate = ideal(torch.full((1, 1, 1, 1), 0.3), 1.0).x_0.item()
        >>> round(estimate, 4)  # tanh(x / sigma^2)
        0.2913
    """

    basis: Tensor | None
    eigenvalues: Tensor
    coordinates: Tensor

    def __init__(
        self,
        means: Float[Tensor, "components channels height width"],
        covariance: Float[Tensor, "dims dims"] | None = None,
        class_labels: Tensor | None = None,
    ) -> None:
        super().__init__()
        coordinates, basis = means.flatten(1), None
        dims = coordinates.shape[1]
        eigenvalues = coordinates.new_zeros(dims)
        if covariance is not None and tuple(covariance.shape) != (dims, dims):
            raise ValueError(f"the covariance is {dims} x {dims}, not {tuple(covariance.shape)}")
        if covariance is not None:
            eigenvalues, basis = torch.linalg.eigh(covariance)
            eigenvalues, coordinates = eigenvalues.clamp(min=0), coordinates @ basis
        self.register_buffer("basis", basis)
        self.register_buffer("eigenvalues", eigenvalues)
        self.register_buffer("coordinates", coordinates)
        self.register_buffer("class_labels", class_labels)
        self.num_classes = 0 if class_labels is None else int(class_labels.max()) + 1

    def forward(self, x: Images, sigma: Sigma, class_labels: Labels | None = None) -> Estimate:
        if isinstance(sigma, Tensor) and sigma.dim():
            sigma = sigma.to(x.dtype)[:, None]
        y = x.flatten(1) if self.basis is None else x.flatten(1) @ self.basis
        total = self.eigenvalues + sigma**2  # (dims,) or (batch, dims)
        # |a - b|^2 = |a|^2 - 2ab + |b|^2, weighted; |a|^2 is common to all components.
        cross = (y / total) @ self.coordinates.T
        squares = (1 / total) @ (self.coordinates**2).T
        logits = cross - squares / 2
        if class_labels is not None and self.num_classes:
            asked = class_labels[:, None]
            other = (self.class_labels != asked) & (asked < self.num_classes)
            logits = logits.masked_fill(other, -torch.inf)
        w = logits.softmax(dim=1) @ self.coordinates
        x_0 = w + self.eigenvalues / total * (y - w)
        x_0 = x_0 if self.basis is None else x_0 @ self.basis.T
        return Estimate(x_0.view(x.shape))
