"""Every function that answers a visitor is called through this: its errors are sentences on the
page and never tracebacks, and it has so many seconds."""

from __future__ import annotations

import functools
import html
import inspect
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from torch.nn.modules.module import register_module_forward_pre_hook

from overtone.errors import OvertoneError
from overtone.studio.limits import Limits

END = object()
"""stands behind the last part of an answer"""
UNKNOWN = "Something went wrong here, and was written to the studio's log. Try other settings."


def told(answer: Callable[..., Any], limits: Limits) -> Callable[..., Any]:
    """The same function or generator, within the time that is allowed, whose errors are messages of
    the page."""
    if inspect.isgeneratorfunction(answer):

        @functools.wraps(answer)
        def each(*arguments: Any) -> Any:
            until = time.monotonic() + limits.seconds
            parts = answer(*arguments)
            try:
                while True:
                    with in_time(limits, until):
                        part = next(parts, END)
                    if part is END:
                        return
                    yield part
            except Exception as error:
                raise _message(error) from None
            finally:
                parts.close()

        return each

    @functools.wraps(answer)
    def once(*arguments: Any) -> Any:
        try:
            with in_time(limits, time.monotonic() + limits.seconds):
                return answer(*arguments)
        except Exception as error:
            raise _message(error) from None

    return once


@contextmanager
def in_time(limits: Limits, until: float) -> Iterator[None]:
    """No layer of any network begins in this thread after a time, that of `time.monotonic`:
    `OvertoneError` is raised in its place."""
    own = threading.get_ident()

    def look(module: Any, given: Any) -> None:
        if threading.get_ident() == own and time.monotonic() > until:
            raise OvertoneError(
                f"This takes longer than the {limits.seconds:g} seconds that are allowed here: ask"
                " for fewer images or evaluations, or for a smaller picture."
            )

    watch = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        watch.remove()


def _message(error: Exception) -> gr.Error:
    """The page shows messages as HTML, so that what came from a visitor is made text first."""
    if isinstance(error, OvertoneError | ValueError) and not isinstance(error, gr.Error):
        return gr.Error(html.escape(str(error)), print_exception=False)
    traceback.print_exception(error, file=sys.stderr)
    return gr.Error(UNKNOWN, print_exception=False)
