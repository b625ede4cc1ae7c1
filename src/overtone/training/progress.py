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
    """The training images seen."""
    seconds: NotNegative = 0.0
    """The seconds spent training, over all parts of the run."""
    scoring_seconds: NotNegative = 0.0
    """The seconds spent on the scores of checkpoints."""
    best_images: Whole = 0
    """The images seen by the best checkpoint."""
    best_by: str = ""
    """What the best checkpoint was chosen by, in words."""
    best_value: Finite | None = None
    """The value of the best checkpoint. None means that no checkpoint was ranked yet."""
    computed: str = ""
    """The device and settings of the last part, which the weights depend on by rounding only."""
    files: dict[str, str] = field(default_factory=dict)
    """The SHA-256 of every other file of the checkpoint, by its name there."""

    def __post_init__(self) -> None:
        check_fields(self)
