"""What the tests of damaged and hostile files have in common.

No file may cost more memory than 256 MB beyond its own size, none may keep anyone waiting, and what
is said of it is one plain line.
"""

import contextlib
import ctypes
import os
import resource
import signal
import time

import pytest

MOST_BYTES = 256 * 2**20
HANGS_AFTER = 60
"""seconds, after which a case counts as hanging; what it took is printed at the end"""


@pytest.fixture(scope="module")
def note():
    """What cases took: (seconds, bytes, name), reported at the end."""
    taken = []
    yield taken.append
    for what, key in (("slowest", 0), ("largest", 1)):
        for seconds, size, name in sorted(taken, key=lambda one: -one[key])[:3]:
            print(f"{what}: {seconds:.2f} s, {size / 2**20:.0f} MB: {name}")


@pytest.fixture
def no_hanging():
    def hangs(*_):
        raise TimeoutError(f"still at work after {HANGS_AFTER} seconds")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANGS_AFTER)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def most_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def sparing(note, name, most=MOST_BYTES):
    """What is done within takes less than `most` bytes more than there were."""
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)  # or freed memory would hide it
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # what earlier cases took at most is forgotten, where that is possible
    before, began = most_memory(), time.monotonic()
    yield
    grown = most_memory() - before
    note((time.monotonic() - began, grown, name))
    assert grown < most


def check_plain(error):
    """An error is one line that a terminal shows as it is."""
    assert len(str(error).splitlines()) == 1
    assert str(error).isprintable()
    assert len(str(error)) < 1100


# What may stand where a file should.


def gone(file):
    file.unlink(missing_ok=True)


def folder(file):
    gone(file)
    file.mkdir()


def pipe(file):
    gone(file)
    os.mkfifo(file)


def device(file):
    gone(file)
    file.symlink_to("/dev/zero")


def circle(file):
    gone(file)
    file.symlink_to(file.name)
