"""How far a run has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from overtone.ranges import Finite, NotNegative, Whole, check_fields


@dataclass
class Progress:
    """The counters of a run."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    images: Whole = 0
    """training images seen"""
    seconds: NotNegative = 0.0
    """time spent training, over all its parts"""
    scoring_seconds: NotNegative = 0.0
    """time spent on the scores of its checkpoints"""
    best_images: Whole = 0
    """the images seen by the best checkpoint"""
    best_by: str = ""
    """what the best checkpoint was chosen by, as people read it"""
    best_value: Finite | None = None
    """the value of that there; none: no checkpoint was ranked yet"""
    computed: str = ""
    """on what and how the last part was computed, which the weights depend on by rounding only"""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every other file of the checkpoint, by its name there"""

    def __post_init__(self) -> None:
        check_fields(self)
