"""Samplers: from noise to an image, step by step."""

from overtone.samplers.estimates import EstimateKind
from overtone.samplers.sampler import Sampler, Step, sigma_grid

__all__ = ["EstimateKind", "Sampler", "Step", "sigma_grid"]
