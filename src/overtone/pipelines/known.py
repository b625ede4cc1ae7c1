"""Where models are on this machine, by the digest of their weights.

Kept in Overtone's cache, so that a receipt, which names no path, finds its model again where it was
made. An entry that is not true any more is passed over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from overtone import storage
from overtone.errors import OvertoneError
from overtone.runs import find_checkpoint, is_run

MOST = 1000
"""entries: the oldest make room"""


def remember(digest: str, model: str, checkpoint: str = "last") -> None:
    """Keep where the model with these weights is: a directory, of a run the checkpoint that was
    opened."""
    path = Path(model).expanduser()
    with contextlib.suppress(OvertoneError, OSError):  # a cache that can't be written is no reason
        if is_run(path):
            path = find_checkpoint(path, checkpoint)
        if not path.exists():  # a repository, which nobody downloads without being asked
            return
        storage.write_json(_folder() / f"{digest}.json", {"model": str(path.absolute())})
        kept = sorted(_folder().glob("*.json"), key=lambda file: file.stat().st_mtime)
        for file in kept[:-MOST]:
            file.unlink(missing_ok=True)


def known_place(digest: Any) -> str | None:
    """Where the model with these weights was last; None where that is not known."""
    if not isinstance(digest, str) or not digest.isalnum():
        return None
    file = _folder() / f"{digest}.json"
    try:
        place = storage.read_json(file, dict).get("model")
    except OvertoneError:
        return None
    return place if isinstance(place, str) and Path(place).exists() else None


def _folder() -> Path:
    return storage.cache_directory() / "models"


def weights_of(account: Mapping[str, Any], part: str = "") -> Any:
    """The digest of the weights in an account, or in a part of it."""
    inner = account.get(part) if part else account
    return inner.get("weights") if isinstance(inner, Mapping) else None
