"""Denoisers: what a clean image is expected to be, given a noisy one and its noise level."""

from overtone.denoisers.denoiser import Denoiser, Estimate
from overtone.denoisers.guidance import GuidedDenoiser
from overtone.denoisers.ideal import IdealDenoiser
from overtone.denoisers.precond import EDMDenoiser

__all__ = ["Denoiser", "EDMDenoiser", "Estimate", "GuidedDenoiser", "IdealDenoiser"]
