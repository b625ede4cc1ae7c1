"""Denoisers: what a clean image is expected to be, given a noisy one and its noise level."""

from overtone.denoisers.denoiser import Denoiser, Estimate
from overtone.denoisers.experts import ExpertDenoiser
from overtone.denoisers.foreign import DiffusersDenoiser
from overtone.denoisers.guidance import GuidanceSettings, GuidedDenoiser
from overtone.denoisers.ideal import IdealDenoiser
from overtone.denoisers.operator import OperatorSettings, SolutionOperator
from overtone.denoisers.precond import (
    ADM_DIFFUSION,
    PRECONDITIONERS,
    DenoiserSettings,
    EDMDenoiser,
    EDMSettings,
    NetworkDenoiser,
    VEDenoiser,
    VESettings,
    VPDenoiser,
    VPSettings,
)

__all__ = [
    "ADM_DIFFUSION",
    "PRECONDITIONERS",
    "Denoiser",
    "DenoiserSettings",
    "DiffusersDenoiser",
    "EDMDenoiser",
    "EDMSettings",
    "Estimate",
    "ExpertDenoiser",
    "GuidanceSettings",
    "GuidedDenoiser",
    "IdealDenoiser",
    "NetworkDenoiser",
    "OperatorSettings",
    "SolutionOperator",
    "VEDenoiser",
    "VESettings",
    "VPDenoiser",
    "VPSettings",
]
