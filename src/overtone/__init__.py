"""Overtone: image diffusion models that use time and frequency.

A network inside a denoiser inverts a process step by step in a sampler, from a start. The public
names are imported when they are first used.
"""

from __future__ import annotations

from typing import Any

import lazy_loader

__version__ = "0.2.0.dev0"

_lazy, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_RENAMED = {
    "EDMSettings": "EDMPreconditioning",
    "ImagePipeline": "Pipeline",
    "OperatorSettings": "OperatorPreconditioning",
    "VESettings": "VEPreconditioning",
    "VPSettings": "VPPreconditioning",
}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        raise AttributeError(f"overtone.{name} is called overtone.{_RENAMED[name]} now")
    if name not in __all__:
        raise AttributeError(f"module 'overtone' has no attribute '{name}'")
    return _lazy(name)
