"""What a visitor of the studio may ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from overtone.ranges import Count, Positive, check_fields

KEPT = 600
"""seconds after which an uploaded picture is removed, and how often that is looked after"""
NAMED = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_session(name: Any) -> bool:
    """Whether the page could have chosen this name for a visitor's session."""
    return isinstance(name, str) and NAMED.fullmatch(name) is not None


@dataclass(frozen=True)
class Limits:
    """The most that one request may cost, and all together may hold."""

    images: Count = 64
    """The most images of a request."""
    pixels: Count = 2**22
    """The most pixels of a request's images together, and of a picture that is uploaded."""
    evaluations: Count = 256
    """The most function evaluations of an image."""
    seconds: Positive = 120.0
    """The most seconds that an answer takes. What is on the page by then stays."""
    upload: Count = 2**23
    """The most bytes of an uploaded file."""
    waiting: Count = 256
    """The most requests that wait for their turn. One is computed at a time."""
    loaded: Count = 3
    """The most models that are in memory at a time."""
    disk: Count = 2**28
    """The most bytes that the pictures of all visitors take on the disk. The oldest are removed."""

    def __post_init__(self) -> None:
        check_fields(self)
