"""What a run does when it is asked to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Ctrl-C, what schedulers of jobs send, and a terminal that is closed, which Windows has no signal
for"""


class Stoppable(Protocol):
    """Something that looks, between two steps, whether it was asked to stop."""

    stop_asked: bool


@contextmanager
def asked_to_stop(trainer: Stoppable, *, show: bool = True) -> Iterator[None]:
    """Finish the step and save on the first of `SIGNALS`; the second one acts as usual. What is
    being done is said at once, where `show`."""

    def ask(number: int, frame: FrameType | None) -> None:
        trainer.stop_asked = True
        for name, handler in before.items():
            signal.signal(name, handler)
        if show:
            _say(f"{signal.Signals(number).name}: finishing the step, then saving a checkpoint.")

    before = {name: signal.getsignal(name) for name in SIGNALS}
    # Under nohup, say, a terminal may be closed.
    before = {name: own for name, own in before.items() if own is not signal.SIG_IGN}
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


def _say(text: str) -> None:
    """A line from a signal's handler, which may interrupt a print; the terminal may be gone."""
    try:
        os.write(2, f"\novertone: {text} A second signal stops it at once.\n".encode())
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
