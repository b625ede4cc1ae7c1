"""How far a run has come."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """The counters of a run."""

    images: int = 0
    """training images seen"""
    seconds: float = 0.0
    """time spent training, over all its parts"""
    best_images: int = 0
    """where the held-out loss was lowest"""
    best_loss: float | None = None
