"""Errors as a visitor reads them: a sentence on the page, and never a traceback."""

from __future__ import annotations

import functools
import html
import inspect
import sys
import traceback
from collections.abc import Callable
from typing import Any

import gradio as gr

from overtone.errors import OvertoneError

UNKNOWN = "Something went wrong here, and was written to the studio's log. Try other settings."


def told(answer: Callable[..., Any]) -> Callable[..., Any]:
    """The same function or generator, whose errors are messages of the page."""
    if inspect.isgeneratorfunction(answer):

        @functools.wraps(answer)
        def each(*arguments: Any) -> Any:
            try:
                yield from answer(*arguments)
            except Exception as error:
                raise _message(error) from None

        return each

    @functools.wraps(answer)
    def once(*arguments: Any) -> Any:
        try:
            return answer(*arguments)
        except Exception as error:
            raise _message(error) from None

    return once


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
