"""A directory of numbered files that hold the rows of a data set, some in each:

    NAME.json             what all of it is
    00000.safetensors     the first rows; each file appears whole or not at all
    00001.safetensors     ...

Files are made by any number of processes and machines that need not know of each other, in any
order, and read through memory maps.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from overtone import settings, storage
from overtone.errors import OvertoneError
from overtone.launch import Processes
from overtone.leftovers import TEMPORARY, sweep

S = TypeVar("S")

TEST_FOLDER = "test"
"""a directory of the same kind within it, of what is held out"""


@dataclass
class Shards:
    """The files of `count` rows in a folder, `block` rows in each but the last.

    `main` is the tensor that a file is known by, of shape (rows, *shape). `remade` says how a file
    is made again, for messages. `mark` is the fingerprint of what all files have to be made with.
    """

    folder: Path
    count: int
    block: int
    main: str
    shape: tuple[int, ...]
    remade: str
    mark: str = ""
    _open: dict[int, Any] = field(default_factory=dict)
    _mapped: dict[tuple[int, str], Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of files."""
        return -(-self.count // self.block)

    def __getstate__(self) -> dict[str, Any]:
        # Open files are not for other processes.
        return self.__dict__ | {"_open": {}, "_mapped": {}}

    def file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def rows(self, number: int) -> range:
        """The rows in a file."""
        first = number * self.block
        return range(first, min(first + self.block, self.count))

    def open(self, number: int) -> Any:
        """A file, mapped; its tensors are not read yet. Raises `OvertoneError`, naming it, for one
        that is missing, damaged, or not of this data."""
        if number in self._open:
            return self._open[number]
        from safetensors import SafetensorError, safe_open

        file, shape = self.file(number), [len(self.rows(number)), *self.shape]
        try:
            shard = safe_open(file, "pt")
            found = shard.get_slice(self.main).get_shape()
            mark = (shard.metadata() or {}).get("made with", "")
        except (OSError, SafetensorError) as error:
            reason = "is missing" if not file.exists() else f"is damaged ({error})"
            raise self.bad(number, reason) from None
        if self.mark and mark != self.mark:
            raise self.bad(number, f"was made with other settings ({mark}, not {self.mark})")
        if found != shape:
            raise self.bad(number, f"has {self.main} of shape {found}, not {shape}")
        self._open[number] = shard
        return shard

    def bad(self, number: int, reason: str) -> OvertoneError:
        return OvertoneError(f"{self.file(number)}, of {len(self)} files, {reason}: {self.remade}.")

    def row(self, index: int, name: str) -> Tensor:
        """One row of a tensor, which is read from the file where it is used: a view of what is
        mapped, made eight times as fast as a slice of the file."""
        number, row = divmod(int(index), self.block)
        whole = self._mapped.get((number, name))
        if whole is None:
            with self._reading(number):
                whole = self._mapped[number, name] = self.open(number).get_tensor(name)
        return whole[row]

    def column(self, name: str) -> Tensor:
        """A tensor of all files, for those that are small."""
        import torch

        parts = []
        for number in range(len(self)):
            with self._reading(number):
                parts.append(self.open(number).get_tensor(name))
        return torch.cat(parts)

    @contextlib.contextmanager
    def _reading(self, number: int) -> Iterator[None]:
        from safetensors import SafetensorError

        try:
            yield
        except SafetensorError as error:
            raise self.bad(number, f"is damaged ({error})") from None

    def is_there(self, number: int) -> bool:
        """Whether a file is there; one that is has to be right."""
        return self.file(number).exists() and self.open(number) is not None

    def missing(self, among: Processes) -> list[int]:
        """The files of this process's share that are not there. Shared out by number, so that what
        others have made by now moves nobody's share."""
        return [n for n in among.share(range(len(self))) if not self.is_there(n)]

    def write(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        with storage.new_file(self.file(number)) as file:
            storage.save_tensors(file, tensors, {"made with": self.mark} if self.mark else None)
        self._open.pop(number, None)
        for kept in [kept for kept in self._mapped if kept[0] == number]:
            del self._mapped[kept]


def claim(
    file: Path,
    index: S,
    fingerprint: Callable[[S], str],
    what: str,
    grown: Collection[str] = (),
) -> None:
    """Write the index of a new directory, or see that the one there is of the same.

    `what` it holds, for messages; fields in `grown` may differ, and the new ones are kept. Raises
    `OvertoneError` for a directory of something else, naming the difference.
    """
    check_claim(file, index, fingerprint, what)
    # Of several jobs that begin together one makes the index, and the others compare.
    if not storage.write_json_once(file, settings.dump(index)):
        check_claim(file, index, fingerprint, what)
        old, new = storage.read_json(file), settings.dump(index)
        if any(old.get(name) != new[name] for name in grown):
            storage.write_json(file, new)
    sweep(file.parent, days=1)


def check_claim(file: Path, index: S, fingerprint: Callable[[S], str], what: str) -> None:
    """Raise what `claim` would raise; nothing is written. Where one job makes several directories,
    all are looked at before the first is begun."""
    folder = file.parent
    if not file.exists():
        if folder.is_dir() and any(not _is_ours(path, file.name) for path in folder.iterdir()):
            raise OvertoneError(f"{folder} holds other files: choose another directory.")
        return
    found = settings.load(type(index), storage.read_json(file), str(file))
    if fingerprint(found) != fingerprint(index):
        changed = "; ".join(settings.difference(settings.dump(found), settings.dump(index)))
        raise OvertoneError(
            f"{folder} holds other {what} ({changed}): choose another directory, or delete this"
            " one."
        )


def _is_ours(path: Path, index: str) -> bool:
    """What may be there before the index is: held-out rows, what a kill left, and what a job that
    began at the same time has made since."""
    name = path.name
    own = name in (TEST_FOLDER, index) or name.startswith(TEMPORARY)
    return own or bool(re.fullmatch(r"\d{5,}\.safetensors", name))
