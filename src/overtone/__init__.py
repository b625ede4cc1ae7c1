"""Overtone: image diffusion models that use time and frequency.

A network inside a denoiser inverts a process step by step in a sampler, from a start. The public
names are imported when they are first used.
"""

from __future__ import annotations

from overtone import renamed

__version__ = "0.2.0.dev0"

__getattr__, __dir__, __all__ = renamed.attach(__name__, __file__)
