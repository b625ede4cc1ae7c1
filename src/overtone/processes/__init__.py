"""What becomes of a clean image: noise levels over time, the forward process, noise sources."""

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

__all__ = [
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
    "VESchedule",
    "VPCosineSchedule",
    "VPLinearSchedule",
]
