"""Results in files: as JSON, which is whole after every case, and as a table beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from overtone import storage
from overtone.bench.compare import Line


class Report:
    """The results of a machine, in MACHINE.json and MACHINE.md of a folder.

    Cases that are measured again replace their former results; others stay, so that a run may be
    done in parts.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], peaks: dict[str, float]) -> None:
        name = re.sub(r"[^A-Za-z0-9]+", "-", str(facts["machine"])).strip("-").lower()
        self.file = folder / f"bench-{name}-{facts['capability'].lower()}.json"
        self.facts = facts | {
            "peak_GFLOP_per_second": {k: round(v / 1e9, 1) for k, v in peaks.items()}
        }
        self.lines: dict[str, Line] = {}
        if self.file.exists():
            before = storage.read_json(self.file, dict)
            self.lines = {line["case"]: line for line in before.get("cases", ())}

    def add(self, line: Line) -> None:
        self.lines[line["case"]] = line | {"machine": self.facts}
        storage.write_json(self.file, {"cases": list(self.lines.values())})
        with storage.new_file(self.file.with_suffix(".md")) as file:
            file.write_text(self.table())

    def table(self) -> str:
        """The results for readers: one row a case, the ratios as they were measured."""
        peaks = ", ".join(
            f"{k} {v:,.0f} GFLOP/s" for k, v in self.facts["peak_GFLOP_per_second"].items()
        )
        rows = [
            f"# {self.facts['machine']}",
            "",
            f"{self.facts['threads']} threads, {self.facts['capability']}, torch"
            f" {self.facts['torch']}, {self.facts['precision']}. Measured peaks: {peaks}.",
            "",
            "| case | result |",
            "|---|---|",
        ]
        rows += [f"| {name} | {told(line)} |" for name, line in self.lines.items()]
        return "\n".join(rows) + "\n"


def told(line: Line) -> str:
    """A result in one cell of a table."""
    parts = []
    for name, value in line.items():
        if name in ("case", "machine"):
            continue
        parts.append(f"{name.replace('_', ' ')}: {_value(value)}")
    return "; ".join(parts).replace("|", "/")


def _value(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {_ratio(one)}" for name, one in value.items())


def _ratio(one: Any) -> str:
    if isinstance(one, dict) and "ratio" in one:
        low, high = one["quartiles"]
        equal = f", {one['at_equal_size']:.2f} at equal size" if "at_equal_size" in one else ""
        return f"**{one['ratio']:.2f}** ({low:.2f} to {high:.2f}{equal})"
    if isinstance(one, dict):
        return "(" + ", ".join(f"{name} {part}" for name, part in one.items()) + ")"
    return str(one)
