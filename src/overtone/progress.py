"""How far something long has come: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

import time

QUIET = 15.0
"""seconds between two lines where there is no terminal"""


class Display:
    """Images done, images a second and time left. `done` were done before this one began; what
    is counted may be something else, whose `unit` a second is told."""

    def __init__(
        self,
        total: int,
        done: int = 0,
        *,
        shown: bool = True,
        what: str = "images",
        unit: str = "images",
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.total, self.began, self.first = total, time.perf_counter(), done
        self.what, self.unit = what, unit
        self.done, self.told = float(done), self.began
        self.shown = shown
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} " + what),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=not (self.shown and self.console.is_terminal),
            refresh_per_second=2,
        )
        self.task = self.bar.add_task("", total=total, completed=done, note="")

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self, images: int) -> None:
        """`images` are done by now, those before included."""
        self.bar.update(self.task, completed=images)

    def more(self, count: float) -> None:
        """So many more are done. Outside a terminal a line tells it now and then."""
        self.done += count
        self.advance(round(self.done))
        if not self.console.is_terminal and time.perf_counter() - self.told > QUIET:
            self.told = time.perf_counter()
            self.report(round(self.done))

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        if self.shown:
            self.console.print(line, highlight=False, markup=False)

    def report(self, images: int, note: str = "") -> None:
        """The rate so far, behind a note: beside the bar, or as a line."""
        rate = (images - self.first) / (time.perf_counter() - self.began)
        note = f"{note}  {rate:,.0f} {self.unit}/s".strip()
        self.bar.update(self.task, completed=images, note=note)
        if self.shown and not self.console.is_terminal:
            left = (self.total - images) / rate
            self.console.print(
                f"{images:,} of {self.total:,} {self.what}  {note}  {_clock(left)} left",
                highlight=False,
            )


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(max(seconds, 0)), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
