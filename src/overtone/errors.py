"""Errors a user can mend. The command line prints them on one or two lines, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OvertoneError(Exception):
    """Says what was wrong, where (file, key, value) and what to do about it."""

    exit_status = 1


class RunInterruptedError(OvertoneError):
    """A user's Ctrl-C, after what was under way was saved; says how to go on."""

    exit_status = 130


def plain(text: str) -> str:
    """Text from somewhere as a terminal may have it: what would move the cursor, change colours or
    hide the rest is written as an escape, and a line of more than 2000 letters is cut short."""
    lines = text.split("\n")
    return "\n".join(_shortened("".join(map(_visible, line))) for line in lines)


def _visible(letter: str) -> str:
    if letter.isprintable() or letter == "\t":
        return letter
    return letter.encode("unicode_escape", "surrogatepass").decode()


def _shortened(line: str) -> str:
    return line if len(line) <= 2000 else f"{line[:1600]} [...] {line[-300:]}"


def unknown(what: str, name: str, known: Iterable[str]) -> OvertoneError:
    """The error for a name that is not one of `known`, with the nearest one suggested."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known) or 'none'}."
    return OvertoneError(f"unknown {what} '{name}': {hint}")
