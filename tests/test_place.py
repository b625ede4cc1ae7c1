"""Whether there is room, and whether a place can be written to."""

import errno
import os

import pytest

from overtone.errors import OvertoneError
from overtone.place import check_place, is_full
from overtone.storage import write_json


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("4096 requested and 512 written"),  # NumPy
        RuntimeError("unable to write to file </torch_1>: No space left on device (28)"),
        ValueError("I/O error: No space left on device (os error 28)"),  # safetensors
    ],
    ids=str,
)
def test_a_full_disk_is_known_whoever_raised_it(error):
    assert is_full(error)
    later = KeyError("x")
    later.__cause__ = error
    assert is_full(later)


@pytest.mark.parametrize(
    "error",
    [
        None,
        OSError(errno.EACCES, "Permission denied"),
        RuntimeError("4 GPUs were requested and 2 are there"),
        ValueError("os error 280"),
    ],
    ids=str,
)
def test_other_errors_are_no_full_disk(error):
    assert not is_full(error)


def test_places(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for good in ("new", "new/deep/grid.png", "file", "grid.png"):
        check_place(tmp_path / good)
    os.mkfifo(tmp_path / "pipe")
    for bad in ("file/grid.png", "folder.png", "x" * 300, "pipe"):
        with pytest.raises(OvertoneError, match=r"can't be written: .*\. Choose another --out"):
            check_place(tmp_path / bad)


def test_a_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OvertoneError, match="pipe is a device or a pipe: choose another place"):
        write_json(tmp_path / "pipe", {})
    with pytest.raises(OvertoneError, match="is a directory: choose another place"):
        write_json(tmp_path, {})
    assert os.listdir(tmp_path) == ["pipe"]


def test_what_only_unix_has_is_not_needed(tmp_path, monkeypatch):
    """Without preadv a place of a file is read by moving there, and signals that are not there are
    not asked for. (Windows itself has not been tried.)"""
    import importlib
    import os
    import signal

    from overtone.regular import read_at
    from overtone.training import interrupt

    (tmp_path / "file").write_bytes(bytes(range(100)))
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    own, other = bytearray(8), bytearray(8)
    try:
        assert read_at(descriptor, memoryview(own), 40) == 8
        monkeypatch.delattr(os, "preadv")
        assert read_at(descriptor, memoryview(other), 40) == 8
        assert read_at(descriptor, memoryview(other), 96) == 4
    finally:
        os.close(descriptor)
    assert bytes(own) == bytes(range(40, 48))
    assert bytes(other) == bytes((*range(96, 100), *range(44, 48)))
    monkeypatch.delattr(signal, "SIGHUP")
    assert len(importlib.reload(interrupt).SIGNALS) == 2
    monkeypatch.undo()
    assert len(importlib.reload(interrupt).SIGNALS) == 3
