"""Samplers: from noise to an image, step by step."""

from overtone.samplers.estimates import EstimateKind
from overtone.samplers.sampler import Sampler, SamplingLoop, Step, sigma_grid
from overtone.samplers.schedulers import SchedulerSampler

__all__ = ["EstimateKind", "Sampler", "SamplingLoop", "SchedulerSampler", "Step", "sigma_grid"]
