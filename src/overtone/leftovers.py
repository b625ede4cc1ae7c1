"""What is being written has a name of its own, and what a kill left under one is deleted."""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import shutil
import time
import uuid
import zlib
from pathlib import Path

TEMPORARY = ".writing-"
"""how the names of what is being written begin"""


def temporary_name(name: str) -> str:
    """A name to write under, which says by whom. The suffix stays, for writers that tell the format
    from it, and the whole is no longer than a name may be."""
    return f"{TEMPORARY}{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}-{name[-40:]}"


def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _is_being_written(name: str) -> bool:
    """Whether the process of this machine that writes under a temporary name is there."""
    parts = name.removeprefix(TEMPORARY).split("-")
    if len(parts) < 3 or parts[0] != _machine() or not parts[1].isdecimal():
        return True  # perhaps, elsewhere
    try:
        os.kill(int(parts[1]), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def sweep_beside(path: Path) -> None:
    """Delete what processes that are gone began to write as `path`."""
    for leftover in path.parent.glob(f"{TEMPORARY}*-{glob.escape(path.name[-40:])}"):
        if not _is_being_written(leftover.name):
            _delete(leftover)


def _delete(leftover: Path) -> None:
    if leftover.is_dir():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink(missing_ok=True)


def sweep(folder: Path, days: float = 0) -> None:
    """Delete what an interrupted write left in `folder`: of processes of this machine that are gone
    at once, of others if it was `days` ago or more."""
    for leftover in Path(folder).glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            young = time.time() - leftover.stat().st_mtime < days * 86400
            if young and _is_being_written(leftover.name):
                continue
        _delete(leftover)
