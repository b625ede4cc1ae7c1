"""Whether there is room, and whether a place can be written to."""

import errno

import pytest

from overtone.errors import OvertoneError
from overtone.place import check_place, is_full


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
    for bad in ("file/grid.png", "folder.png", "x" * 300):
        with pytest.raises(OvertoneError, match=r"can't be written: .*\. Choose another --out"):
            check_place(tmp_path / bad)
