"""The directory of a run: its settings, its log, its checkpoints.

    run.json                  what the weights depend on; a run with anything else is refused
    recipe.json               all settings, as `overtone train .../recipe.json` takes them
    lock                      held by the process that trains here
    log.jsonl                 one line a report
    grids/000128000.png       samples at fixed seeds, by images seen
    checkpoints/000128000/    a saved pipeline with averaged weights, and beside it
        training/             what is needed to go on: weights, averages, optimizer, counters

Checkpoints appear whole (see `overtone.storage`); the newest is where a run resumes, once its files
are seen to be those that were written. The best one, as `best` says, and the newest few are kept.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from overtone import former, settings, storage
from overtone.denoisers.preconditioning import Preconditioning
from overtone.digests import difference_in, digests_in
from overtone.errors import OvertoneError, plain
from overtone.launch import ALONE, Processes, fill, whole
from overtone.leftovers import TEMPORARY, sweep
from overtone.networks.configs.network import NetworkConfig
from overtone.pipelines.card import CARD_FILE
from overtone.runs import (
    LOCK_FILE,
    LOG_FILE,
    PROGRESS_FILE,
    RUN_FILE,
    checkpoints_of,
    lines_until,
    read_log,
)
from overtone.training.ema import EMA
from overtone.training.progress import Progress
from overtone.training.recipes import command_with_weights


class RunDirectory:
    """The directory of a run, held by this process while the `with` block lasts.

    `identity` is the JSON of all that the weights depend on. Raises `OvertoneError`, naming the
    differences, if the directory was made with another, holds something else, or is in use.

    Of several `processes` the first one holds and writes it; the others only read.
    """

    def __init__(self, path: Path, identity: dict[str, Any], processes: Processes = ALONE) -> None:
        self.path = Path(path).expanduser()
        self.checkpoints = self.path / "checkpoints"
        self.identity = identity
        self.processes = processes
        self._lock: FileLock | None = None

    def __enter__(self) -> RunDirectory:
        if self.processes.is_main:
            self._take()
        self.processes.wait()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            # Closing its file would leave it with processes that load images until they have ended.
            self._lock.release()

    def _take(self) -> None:
        known = self.path / RUN_FILE
        if self.path.is_dir() and not known.exists():
            strangers = [f for f in self.path.iterdir() if not _ours(f.name)]
            if strangers:
                raise OvertoneError(
                    f"{self.path} is not empty and not a run: choose another --out."
                )
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            lock = self.path / LOCK_FILE
            if lock.exists() and not lock.is_file():
                raise OvertoneError(f"{lock} is not a file: remove it.")
            self._lock = FileLock(lock, timeout=0)
            self._lock.acquire()
        except Timeout:
            raise OvertoneError(
                f"another process is training in {self.path}: wait for it, or use another --out."
            ) from None
        except OSError as error:
            raise OvertoneError(f"can't write to {self.path}: {error.strerror}.") from None
        try:
            self._check_identity(known)
        except BaseException:
            self._lock.release()
            raise
        for folder in (self.path, self.checkpoints, self.path / "grids"):
            sweep(folder)

    def _check_identity(self, known: Path) -> None:
        if not known.exists():
            storage.write_json(known, self.identity)
            return
        there = _of_today(storage.read_json(known, dict))
        differences = list(settings.difference(there, self.identity))
        if differences:
            said = f"{self.path} was made with other settings ({'; '.join(differences[:4])}):"
            longer = all(one.startswith("training.total_images:") for one in differences)
            total = self.identity["training"]["total_images"] if longer else 0
            if longer and (command := command_with_weights(self.path, total)):
                raise OvertoneError(
                    f"{said} the learning rate falls towards the end of a run, so that its end is"
                    f" fixed. Begin a new run with its weights: {command}"
                )
            raise OvertoneError(f"{said} use those, or another --out.")

    def latest(self) -> Path | None:
        """The newest checkpoint, or None for a run that has none yet."""
        folders = checkpoints_of(self.path)
        return folders[-1] if folders else None

    def kept(self) -> list[int]:
        """The images seen by each checkpoint that is there."""
        return [int(folder.name) for folder in checkpoints_of(self.path)]

    def save(
        self,
        progress: Progress,
        export: Callable[[Path], None],
        model: nn.Module,
        averages: Mapping[str, EMA],
        optimizer: torch.optim.Optimizer,
        keep: int,
    ) -> Path:
        """Write a checkpoint and delete those that are neither among the `keep` last nor best.

        `averages` are gathered, and named as their files are; `model` and `optimizer` may be
        sharded over the processes.
        """
        folder = self.checkpoints / f"{progress.images:09d}"
        weights = {name: whole(value) for name, value in model.state_dict().items()}
        moments = {name: whole(value) for name, value in _moments(optimizer).items()}
        if self.processes.is_main:
            with storage.new_directory(folder) as temporary:
                export(temporary)
                state = temporary / "training"
                state.mkdir()
                storage.save_tensors(state / "weights.safetensors", weights)
                for name, ema in averages.items():
                    storage.save_tensors(state / f"{name}.safetensors", ema.module.state_dict())
                storage.save_tensors(state / "optimizer.safetensors", moments)
                # But for the card, which people write in.
                progress.files = digests_in(temporary, without=(CARD_FILE,))
                storage.write_json(temporary / PROGRESS_FILE, asdict(progress))
            self._delete_old(progress, keep)
        self.processes.wait()
        return folder

    def _delete_old(self, progress: Progress, keep: int) -> None:
        for old in checkpoints_of(self.path)[:-keep]:
            if int(old.name) != progress.best_images:
                storage.remove_directory(old)

    def restore(
        self,
        model: nn.Module,
        averages: Mapping[str, EMA],
        optimizer: torch.optim.Optimizer,
        *,
        skip_bad: bool = False,
    ) -> Progress:
        """Load the newest checkpoint into all of them; counters at zero if there is none.

        Raises `OvertoneError`, naming the file, if the checkpoint is not as it was written. With
        `skip_bad` the newest one that is goes on, and those behind it are renamed.
        """
        found = self._newest_whole(skip_bad)
        if found is None:
            self._cut_log(-1)
            return Progress()
        folder, progress = found
        state = folder / "training"
        _load(model, state / "weights.safetensors")
        for name, ema in averages.items():
            _load(ema.module, state / f"{name}.safetensors")
            ema.scatter()
        _load_moments(optimizer, state / "optimizer.safetensors")
        self._cut_log(progress.images)
        return progress

    def _newest_whole(self, skip_bad: bool) -> tuple[Path, Progress] | None:
        """The checkpoint to go on from. The first process looks, and all do as it says."""
        found = self._looked_for(skip_bad) if self.processes.is_main else (None, "")
        name, error = self.processes.gather(found)[0]
        if error:
            raise OvertoneError(error)
        if name is None:
            return None
        folder = self.checkpoints / name
        progress = progress_in(folder)
        if progress.best_images not in self.kept():
            progress.best_images, progress.best_value = progress.images, None
        return folder, progress

    def _looked_for(self, skip_bad: bool) -> tuple[str | None, str]:
        """The name of the newest checkpoint that is as it was written, or else what is wrong. With
        `skip_bad` those that are not are renamed, and said."""
        folders = checkpoints_of(self.path)
        bad: dict[Path, str] = {}
        for folder in reversed(folders):
            wrong = _wrong_in(folder)
            if not wrong:
                for one, why in bad.items():
                    aside = one.with_name(f"{one.name}.bad-{uuid.uuid4().hex[:8]}")
                    one.rename(aside)
                    print(plain(f"{why}: renamed to {aside.name}"), file=sys.stderr)
                return folder.name, ""
            bad[folder] = wrong
            if not skip_bad:
                way = (
                    f"--skip-bad-checkpoints goes on from the one before, {folders[-2].name}"
                    if len(folders) > 1
                    else "no other checkpoint is there: begin the run again in another --out"
                )
                return None, f"{wrong}; {way}."
        if not bad:
            return None, ""
        return None, (
            f"none of the {len(bad)} checkpoints in {self.checkpoints} is as it was written: begin"
            " the run again in another --out."
        )

    def log(self, entry: dict[str, Any]) -> None:
        """Append a line to the log."""
        if self.processes.is_main:
            storage.append_line(self.path / LOG_FILE, json.dumps(entry))

    def read_log(self) -> list[dict[str, Any]]:
        """The lines of the log."""
        return read_log(self.path)

    def _cut_log(self, images: int) -> None:
        """Drop the lines that came after the checkpoint: the run is about to write them again."""
        if not self.processes.is_main:
            return
        lines = lines_until(self.path, images)
        with storage.new_file(self.path / LOG_FILE) as temporary:
            temporary.write_text("".join(lines))


def _of_today(identity: dict[str, Any]) -> dict[str, Any]:
    """The identity of a run that a former version began, as this version would write it."""
    new = former.run_identity(identity)
    if "denoiser" in identity:
        families = {"preconditioning": Preconditioning, "network": NetworkConfig}
        families |= {"weighting": Preconditioning}
        for key, family in families.items():
            if isinstance(new.get(key), dict):
                new[key] = settings.dump(settings.load(family, new[key], RUN_FILE))
    return new


def _ours(name: str) -> bool:
    """Names that a run killed before it wrote its settings may have left."""
    return name in ("checkpoints", LOCK_FILE) or name.startswith(TEMPORARY)


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value for i, entry in state.items() for key, value in entry.items()}


def progress_in(folder: Path) -> Progress:
    """How far a checkpoint had come, as it says."""
    file = folder / PROGRESS_FILE
    data = former.progress(storage.read_json(file, dict))
    progress = settings.load(Progress, data, str(file))
    if progress.images != int(folder.name):
        raise OvertoneError(f"{file} is of image {progress.images:,}, not of {folder.name}.")
    return progress


def _wrong_in(folder: Path) -> str:
    """What keeps a checkpoint from being as it was written; "" for nothing."""
    try:
        return difference_in(folder, progress_in(folder).files)
    except OvertoneError as error:
        return str(error).rstrip(".")


def _load(model: nn.Module, file: Path) -> None:
    """`load_state_dict`, for a model that may be sharded."""
    own, weights = model.state_dict(), storage.load_tensors(file)
    wrong = own.keys() ^ weights.keys() or {n for n in own if own[n].shape != weights[n].shape}
    if wrong:
        raise OvertoneError(f"{file} is of another model: its '{min(wrong)}' does not fit.")
    for name, value in weights.items():
        fill(own[name], value)


def _load_moments(optimizer: torch.optim.Optimizer, file: Path) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in storage.load_tensors(file).items():
        index, _, key = name.partition(".")
        if not index.isdecimal() or int(index) >= len(parameters):
            raise OvertoneError(f"{file} is of another model: its '{name}' does not fit.")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            # Files hold rows in order; the fused Adam step walks parameter and moments side by
            # side in memory and needs them in one layout (channels-last, for convolutions).
            moment = torch.empty_like(parameter, requires_grad=False)
            fill(moment, tensor)
            tensor = moment
        state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
