"""What stands around every function that answers a visitor: its errors are sentences on the page
and never tracebacks, and it has so many seconds."""

from __future__ import annotations

import functools
import html
import inspect
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from torch.nn.modules.module import register_module_forward_pre_hook

from overtone.errors import OvertoneError
from overtone.studio.limits import Limits

_watch: Any = None
"""what looks at the clock for the answer that is being computed"""
UNKNOWN = "Something went wrong here, and was written to the studio's log. Try other settings."


def told(answer: Callable[..., Any], limits: Limits) -> Callable[..., Any]:
    """The same function or generator, within the time that is allowed, whose errors are messages of
    the page."""
    if inspect.isgeneratorfunction(answer):

        @functools.wraps(answer)
        def each(*arguments: Any) -> Any:
            try:
                with in_time(limits):
                    yield from answer(*arguments)
            except Exception as error:
                raise _message(error) from None

        return each

    @functools.wraps(answer)
    def once(*arguments: Any) -> Any:
        try:
            with in_time(limits):
                return answer(*arguments)
        except Exception as error:
            raise _message(error) from None

    return once


@contextmanager
def in_time(limits: Limits) -> Iterator[None]:
    """No layer of any network begins after the seconds that are allowed: `OvertoneError` is raised
    in its place. One answer is computed at a time."""
    global _watch
    until = time.monotonic() + limits.seconds

    def look(module: Any, given: Any) -> None:
        if time.monotonic() > until:
            raise OvertoneError(
                f"This takes longer than the {limits.seconds:g} seconds that are allowed here: ask"
                " for fewer images or evaluations, or for a smaller picture."
            )

    if _watch is not None:  # of an answer that nobody waited for
        _watch.remove()
    own = _watch = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        own.remove()


def first_line(error: Exception) -> str:
    """What an error says, as one line of a log that a visitor's words can't forge."""
    said = str(error).strip().partition("\n")[0][:200]
    return "".join(letter if letter.isprintable() else "?" for letter in said)


def _message(error: Exception) -> gr.Error:
    """The page shows messages as HTML, so that what came from a visitor is made text first."""
    if isinstance(error, OvertoneError | ValueError) and not isinstance(error, gr.Error):
        return gr.Error(html.escape(str(error)), print_exception=False)
    traceback.print_exception(error, file=sys.stderr)
    return gr.Error(UNKNOWN, print_exception=False)
