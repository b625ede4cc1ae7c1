"""Samplers: from noise to an image, step by step."""

from typing import Annotated

import pydantic

from overtone.samplers.ancestral import AncestralSampler
from overtone.samplers.estimates import EstimateKind
from overtone.samplers.operator import OperatorSampler
from overtone.samplers.sampler import Sampler, SamplingLoop, Step, budget_grid, sigma_grid
from overtone.samplers.schedulers import SchedulerSampler, scheduler_of

AnySampler = Annotated[Sampler | AncestralSampler, pydantic.Field(discriminator="kind")]
"""A sampler in settings."""

__all__ = [
    "AncestralSampler",
    "AnySampler",
    "EstimateKind",
    "OperatorSampler",
    "Sampler",
    "SamplingLoop",
    "SchedulerSampler",
    "Step",
    "budget_grid",
    "scheduler_of",
    "sigma_grid",
]
