"""What a run does when it is asked to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol


class Stoppable(Protocol):
    """Something that looks, between two steps, whether it was asked to stop."""

    stop_asked: bool


@contextmanager
def asked_to_stop(trainer: Stoppable) -> Iterator[None]:
    """Finish the step and save on the first SIGINT or SIGTERM; the second one acts as usual."""

    def ask(number: int, frame: FrameType | None) -> None:
        trainer.stop_asked = True
        for name, handler in before.items():
            signal.signal(name, handler)

    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        for name in before:
            signal.signal(name, ask)
    except ValueError:  # not the main thread, which alone may set handlers
        yield
        return
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
