"""What is being written has a name of its own, and what a kill left under one is deleted."""

from __future__ import annotations

import contextlib
import functools
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


@functools.cache
def _machine() -> str:
    """What tells this machine, and this container on it, from others: the process numbers of one
    mean nothing in another."""
    facts = [platform.node()]
    with contextlib.suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        facts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return f"{zlib.crc32(' '.join(facts).encode()):08x}"


def _writer(name: str) -> str:
    """Whether the process that writes under a temporary name is "there", "gone" or "elsewhere"."""
    parts = name.removeprefix(TEMPORARY).split("-")
    if len(parts) < 3 or parts[0] != _machine() or not parts[1].isdecimal():
        return "elsewhere"
    try:
        os.kill(int(parts[1]), 0)
    except ProcessLookupError:
        return "gone"
    except (OSError, OverflowError):
        pass
    return "there"


def sweep_beside(path: Path) -> None:
    """Delete what processes that are gone began to write as `path`."""
    for leftover in path.parent.glob(f"{TEMPORARY}*-{glob.escape(path.name[-40:])}"):
        if _writer(leftover.name) == "gone":
            _delete(leftover)


def _delete(leftover: Path) -> None:
    if leftover.is_dir():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink(missing_ok=True)


def sweep(folder: Path, days: float = 0) -> None:
    """Delete what an interrupted write left in `folder`: of processes of this machine that are
    gone, and of others if it was `days` ago or more. With 0 days nobody else may write there."""
    for leftover in Path(folder).glob(f"{TEMPORARY}*"):
        writer = _writer(leftover.name)
        with contextlib.suppress(OSError):
            young = time.time() - leftover.stat().st_mtime < days * 86400
            if days and (writer == "there" or (writer == "elsewhere" and young)):
                continue
        _delete(leftover)
