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
    """The limits of one request, and of all requests together."""

    images: Count = 64
    """The largest number of images in a request."""
    pixels: Count = 2**22
    """The largest number of pixels of all images of a request together, and of a picture that is
    uploaded."""
    evaluations: Count = 256
    """The largest number of function evaluations per image."""
    seconds: Positive = 120.0
    """The longest time that an answer takes, in seconds. What is on the page by then stays."""
    upload: Count = 2**23
    """The largest size of an uploaded file, in bytes."""
    waiting: Count = 256
    """The largest number of requests that wait for their turn. One is computed at a time."""
    loaded: Count = 3
    """The largest number of models that are in memory at a time."""
    disk: Count = 2**28
    """The largest size of the pictures of all visitors on the disk, in bytes. The oldest are
    removed."""

    def __post_init__(self) -> None:
        check_fields(self)
