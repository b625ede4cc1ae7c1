"""Overtone: image diffusion models that use time and frequency.

A network inside a denoiser inverts a process step by step in a sampler. The names below are
imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "ADMConfig": "networks",
    "ADMUNet": "networks",
    "AncestralSampler": "samplers",
    "Classifier": "networks",
    "ClassifierConfig": "networks",
    "DSNOConfig": "networks",
    "DSNOPipeline": "pipelines",
    "DSNOUNet": "networks",
    "Denoiser": "denoisers",
    "DiffiTConfig": "networks",
    "DiffiTPipeline": "pipelines",
    "DiffiTTransformer": "networks",
    "DiffiTTransformerConfig": "networks",
    "DiffiTUNet": "networks",
    "DiffusersDenoiser": "denoisers",
    "DiscreteSchedule": "processes",
    "EDMDenoiser": "denoisers",
    "EDMSettings": "denoisers",
    "Estimate": "denoisers",
    "ExpertDenoiser": "denoisers",
    "Experts": "networks",
    "GaussianProcess": "processes",
    "GuidanceSettings": "denoisers",
    "GuidedDenoiser": "denoisers",
    "IUNet": "networks",
    "IUNetConfig": "networks",
    "IdealDenoiser": "denoisers",
    "ImagePipeline": "pipelines",
    "LatentDiffiTPipeline": "pipelines",
    "MEMEPipeline": "pipelines",
    "OperatorSampler": "samplers",
    "OperatorSettings": "denoisers",
    "OvertoneError": "errors",
    "Process": "processes",
    "QuantileSchedule": "processes",
    "RelayPipeline": "pipelines",
    "RelayProcess": "processes",
    "ReplayNoise": "processes",
    "Sampler": "samplers",
    "Schedule": "processes",
    "SchedulerSampler": "samplers",
    "SeededNoise": "processes",
    "SolutionOperator": "denoisers",
    "SongConfig": "networks",
    "SongUNet": "networks",
    "TemporalConv": "networks.spectral",
    "TemporalNetwork": "networks",
    "VAE": "networks.vae",
    "VEDenoiser": "denoisers",
    "VESchedule": "processes",
    "VESettings": "denoisers",
    "VPCosineSchedule": "processes",
    "VPDenoiser": "denoisers",
    "VPLinearSchedule": "processes",
    "VPSettings": "denoisers",
    "from_published": "convert",
    "load_pipeline": "pipelines",
    "open_data": "data",
    "temporalize": "networks",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'overtone' has no attribute '{name}'")
    return getattr(importlib.import_module(f"overtone.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
