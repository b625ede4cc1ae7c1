"""What becomes of a clean image: noise levels over time, the forward process, noise sources."""

from typing import Annotated

import pydantic

from overtone.processes.flow import FLOW_TIME, Spacing, check_levels, from_vp, spaced, to_vp
from overtone.processes.gaussian import GaussianProcess, Process
from overtone.processes.noise import NoiseSource, ReplayNoise, SeededNoise
from overtone.processes.relay import RelayProcess
from overtone.processes.schedule import (
    AnySchedule,
    DiscreteSchedule,
    QuantileSchedule,
    Schedule,
    VESchedule,
    VPCosineSchedule,
    VPLinearSchedule,
)

AnyProcess = Annotated[GaussianProcess | RelayProcess, pydantic.Field(discriminator="kind")]
"""A process in settings."""

__all__ = [
    "FLOW_TIME",
    "AnyProcess",
    "AnySchedule",
    "DiscreteSchedule",
    "GaussianProcess",
    "NoiseSource",
    "Process",
    "QuantileSchedule",
    "RelayProcess",
    "ReplayNoise",
    "Schedule",
    "SeededNoise",
    "Spacing",
    "VESchedule",
    "VPCosineSchedule",
    "VPLinearSchedule",
    "check_levels",
    "from_vp",
    "spaced",
    "to_vp",
]
