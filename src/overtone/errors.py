"""Errors a user can mend. The command line prints them on one or two lines, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OvertoneError(Exception):
    """Says what was wrong, where (file, key, value) and what to do about it, in one line: what
    files and names have in them is shown as `plain` shows it."""

    exit_status = 1

    def __init__(self, message: object) -> None:
        super().__init__(plain(str(message)))


class RunInterruptedError(OvertoneError):
    """A user's Ctrl-C, after what was under way was saved; `command` goes on from there."""

    exit_status = 130

    def __init__(self, message: object, command: str = "") -> None:
        super().__init__(message)
        self.command = command

    def __str__(self) -> str:
        return f"{super().__str__()}\n  {self.command}" if self.command else super().__str__()


SMALLER = "a smaller --batch-size, where the command has one, needs less of it"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, a device's or the host's, was too small."""
    # torch's own class is known by its name, so that telling needs no torch.
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"OutOfMemoryError", "MemoryError"}) or "DefaultCPUAllocator" in str(error)


MOST_LETTERS = 1000


def plain(text: str) -> str:
    """Text from somewhere as one line for a terminal: what would begin another line, move the
    cursor, change colours or hide the rest is written as an escape, and the middle of more than
    `MOST_LETTERS` letters is left out."""
    if len(text) > MOST_LETTERS:
        text = f"{text[: MOST_LETTERS * 3 // 4]} [...] {text[-MOST_LETTERS // 5 :]}"
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(letter: str) -> str:
    if letter.isprintable():
        return letter
    return letter.encode("unicode_escape", "surrogatepass").decode()


def counted(count: float, thing: str, things: str = "") -> str:
    """A number of things in words: "1 image", "2,000 images"."""
    shown = int(count) if count == int(count) else count
    return f"{shown:,} {thing if count == 1 else things or f'{thing}s'}"


SHOWN = 32
"""names that an error lists, at most"""


def unknown(what: str, name: str, known: Iterable[str]) -> OvertoneError:
    """The error for a name that is not one of `known`, with the nearest one suggested."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    shown = ", ".join(known[:SHOWN]) or "none"
    more = f", and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    hint = f"did you mean '{near[0]}'?" if near else f"known: {shown}{more}."
    return OvertoneError(f"unknown {what} '{name}': {hint}")


def first_line(error: Exception) -> str:
    """What an error says, as one line of a log that a visitor's words can't forge."""
    said = str(error).strip().partition("\n")[0][:200]
    return "".join(letter if letter.isprintable() else "?" for letter in said)
