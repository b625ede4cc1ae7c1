"""The models that a studio shows, opened as they are asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from overtone.errors import OvertoneError
from overtone.pipelines.index import is_pipeline
from overtone.pipelines.load import public_model
from overtone.runs import is_run

if TYPE_CHECKING:
    from overtone.pipelines.pipeline import Pipeline


class Shelf:
    """Models by name. A visitor can choose one of `names`, and nothing else is ever opened.

    Arguments:
        names: saved pipelines, runs, repositories of the Hub, diffusers pipelines.
        open_model: what opens one of them.
        most: models that are kept in memory; the one that was asked for least recently goes.
    """

    def __init__(
        self, names: Sequence[str], open_model: Callable[[str], Pipeline], most: int = 3
    ) -> None:
        if not names:
            raise OvertoneError(
                "there is no model to show: name one, as in overtone studio runs/digits, or start"
                " in a directory with models/ or runs/."
            )
        self._given = _shown(dict.fromkeys(names))
        self.names = list(self._given)
        self._open, self._most, self._lock = open_model, most, Lock()
        self._loaded: OrderedDict[str, Pipeline] = OrderedDict()

    def leave_out(self, told: Callable[[str], None]) -> None:
        """Leave out the models that can't be opened, and tell why of each. Raises `OvertoneError`
        where none is left."""
        for name in tuple(self.names):
            try:
                self[name]
            except OvertoneError as error:
                self.names.remove(name)
                told(f"{name} is left out: {error}")
        if not self.names:
            raise OvertoneError("none of these models can be opened.")

    def __getitem__(self, name: str) -> Pipeline:
        """The model of a name. Raises `OvertoneError` for one that is not here."""
        if name not in self.names:
            raise OvertoneError("this studio does not show that model: choose one of its list.")
        with self._lock:
            if name not in self._loaded:
                while len(self._loaded) >= self._most:
                    self._loaded.popitem(last=False)
                self._loaded[name] = self._open(self._given[name])
            self._loaded.move_to_end(name)
            return self._loaded[name]


def _shown(names: Iterable[str]) -> dict[str, str]:
    """Models by the names that visitors see, which tell no directory of this machine above the one
    that the studio was started in."""
    found: dict[str, str] = {}
    for name in names:
        outside = name.startswith(("/", "~")) or ".." in Path(name).parts
        shown = public_model(name) if outside else name
        number = 1
        while shown in found:
            number += 1
            shown = f"{public_model(name)} ({number})"
        found[shown] = name
    return found


def models_here(folder: Path = Path()) -> list[str]:
    """The saved pipelines in models/ and the runs in runs/ below a directory."""
    saved = sorted(path for path in (folder / "models").glob("*") if is_pipeline(path))
    runs = sorted(path for path in (folder / "runs").glob("*") if is_run(path) and _has_model(path))
    return [str(path) for path in (*saved, *runs)]


def _has_model(run: Path) -> bool:
    return any(is_pipeline(path) for path in (run / "checkpoints").glob("*"))
