"""Work on a thread beside sampling: pictures are encoded and written while the next are made."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self


class Aside:
    """Takes one piece of work at a time, in order, and raises its error at the next or at the end.

        with Aside() as aside:
            for batch in pipe.stream(request):
                aside.do(write, batch)

    A piece waits for the one before it, so that no more than two batches are held.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "overtone-aside")
        self._last: Future[Any] | None = None

    def do(self, work: Callable[..., object], *arguments: Any) -> None:
        """Have `work(*arguments)` done. Raises what the piece before it raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()
        self._last = self._thread.submit(work, *arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if error is None and self._last is not None:
            self._last.result()
