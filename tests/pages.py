"""The code on the pages of the documentation, as commands and Python that can be run."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
_INDENTED = re.compile(r"(?:^|\n\n)((?:    \S.*\n(?:    .*\n|\n(?=    ))*)+)")


@dataclass(frozen=True)
class Code:
    """A block of a page: lines of a shell, or Python."""

    python: bool
    text: str


def code_of(page: Path) -> list[Code]:
    """The blocks of code on a page, in order."""
    text, found = page.read_text(), []
    for match in _FENCE.finditer(text):
        if match[1] in ("", "python", "sh"):
            found.append((match.start(), Code(match[1] == "python", match[2])))
    # Fences are blanked out, so that what is indented within them is not found twice.
    rest = _FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    for match in _INDENTED.finditer(rest):
        found.append((match.start(), Code(False, re.sub(r"^    ", "", match[1], flags=re.M))))
    return [code for _, code in sorted(found, key=lambda pair: pair[0])]


def commands_of(code: Code) -> list[list[str]]:
    """The commands of a block of shell, as words, without the comments beside them."""
    lines = re.sub(r"\\\n\s*", " ", code.text).splitlines()
    commands = []
    for line in lines:
        line = re.sub(r"\s{2,}(?![-'\"]).*$", "", line.strip())
        if re.match(r"(overtone|make|pip|sh|python|torchrun|accelerate|hf|git)\b", line):
            commands.append(shlex.split(line, comments=True))
    return commands
