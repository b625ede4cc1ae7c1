"""What becomes of a clean image: noise levels over time, the forward process, noise sources."""

from overtone.processes.gaussian import GaussianProcess, Process
from overtone.processes.noise import NoiseSource, ReplayNoise, SeededNoise
from overtone.processes.schedule import QuantileSchedule, Schedule, VPLinearSchedule

__all__ = [
    "GaussianProcess",
    "NoiseSource",
    "Process",
    "QuantileSchedule",
    "ReplayNoise",
    "Schedule",
    "SeededNoise",
    "VPLinearSchedule",
]
