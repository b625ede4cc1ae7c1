"""A teacher's trajectories, solved and kept, or solved when they are asked for."""

from __future__ import annotations

import dataclasses
import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from overtone import former, settings, storage
from overtone import precision as precisions
from overtone.data.shards import TEST_FOLDER, Shards, check_claim, claim
from overtone.data.trajectories import (
    INDEX_FILE,
    Trajectories,
    TrajectoriesIndex,
    TrajectoryData,
    checksums,
    fingerprint_of,
    shards_of,
)
from overtone.errors import OvertoneError
from overtone.launch import Processes, processes
from overtone.pipelines.environment import environment
from overtone.processes.vp_frame import FLOW_TIME, to_vp
from overtone.progress import Display
from overtone.sizes import sides
from overtone.training.configs.distillation import DistillationRecipe
from overtone.training.teacher import Teacher

FILE_ROWS, FILE_BYTES = 1024, 2**29  # at most in a file, which is made in memory
BATCH = 64  # trajectories solved at a time: part of what a file is, as rounding depends on it


def kept_steps(sigmas: Sequence[float], times: Sequence[float]) -> list[int]:
    """The steps of a solver that are kept: the start, then those nearest to `times`, t of
    `FLOW_TIME`, falling to 0.

    `sigmas` are the solver's noise levels, falling to 0. Raises `ValueError` for times before the
    start, and where the solver has fewer steps than there are times.
    """
    own = FLOW_TIME.t(torch.tensor(list(sigmas))).tolist()
    if times[0] >= own[0]:
        raise ValueError(f"the trajectories begin at t = {own[0]:.3g}, and times come after")
    kept = [0]
    for place, wanted in enumerate(times):
        left = len(times) - place - 1  # of steps that have to stay free behind
        choice = range(kept[-1] + 1, len(own) - left)
        if not choice:
            raise ValueError(
                f"{len(sigmas) - 1} steps of the solver can't give {len(times)} times: take more"
                " steps, or fewer times"
            )
        nearest = min(choice, key=lambda i: abs(own[i] - wanted))
        kept.append(len(own) - 1 if wanted == 0 else nearest)
    return kept


def index_of(
    recipe: DistillationRecipe, teacher: Teacher, *, held_out: bool = False
) -> TrajectoriesIndex:
    """What the trajectories of a recipe are, before they are made."""
    sigmas = teacher.sampler.sigmas
    try:
        kept = kept_steps(sigmas, recipe.times_from(float(FLOW_TIME.t(sigmas[0]))))
        count = recipe.held_out if held_out else recipe.count
        each = len(kept) * teacher.channels * math.prod(sides(teacher.resolution)) * 4
        return TrajectoriesIndex(
            teacher=teacher.name,
            teacher_digest=teacher.digest,
            made_with=teacher.made_with,
            sigmas=tuple(sigmas[i] for i in kept),
            count=count,
            first_seed=recipe.first_seed - (count if held_out else 0),
            resolution=teacher.resolution,
            channels=teacher.channels,
            class_names=teacher.pipe.class_names,
            num_classes=teacher.num_classes,
            dtype=recipe.dtype,
            block=max(min(FILE_ROWS, FILE_BYTES // each) // BATCH, 1) * BATCH,
            environment=settings.dump(environment(teacher.pipe)),
        )
    except ValueError as error:
        raise OvertoneError(f"{error}.") from None


def solve(
    teacher: Teacher, seeds: Sequence[int], sigmas: Sequence[float]
) -> tuple[Float[Tensor, "batch times channels height width"], Int[Tensor, " batch"]]:
    """A batch of trajectories at the noise levels `sigmas`, which the solver passes, in the
    variance-preserving frame; and their classes."""
    labels = teacher.labels(seeds)
    wanted, states = set(sigmas[1:]), []
    pipe = teacher.pipe
    with precisions.autocast(pipe.precision, pipe.device):
        begun = pipe.begin(seeds, labels)
        states.append(to_vp(begun.start, begun.sigma))
        for step in begun.steps:
            if step.sigma in wanted:
                states.append(to_vp(step.x, step.sigma))
    if len(states) != len(sigmas):
        raise OvertoneError("the teacher's solver passes other noise levels than were asked for.")
    zeros = torch.zeros(len(seeds), dtype=torch.int64)
    return torch.stack(states, dim=1).float(), zeros if labels is None else labels


def collect(
    recipe: DistillationRecipe,
    teacher: Teacher,
    folder: Path,
    *,
    part: tuple[int, int] = (1, 1),
    repair: bool = False,
    show: bool = True,
) -> TrajectoryData | None:
    """The trajectories of a recipe in `folder`: made now, or what is missing of them.

    Shared among the processes of a job, and, with `part` (k, n), among n jobs that know nothing of
    each other. With `repair` the files that are there are read through, and damaged ones made
    again. Returns None while files are missing that are others' to make.
    """
    among = processes()
    if not 1 <= part[0] <= part[1]:
        raise OvertoneError(f"--part is K/N with K in 1..N, not {part[0]}/{part[1]}.")
    among = Processes(
        (part[0] - 1) * among.count + among.index, part[1] * among.count, among.local_index
    )
    jobs = [(folder, continued(folder, index_of(recipe, teacher)))]
    if recipe.held_out:
        test = folder / TEST_FOLDER
        jobs.insert(0, (test, continued(test, index_of(recipe, teacher, held_out=True))))
    if processes().is_main:
        _check_disk(folder, jobs)
        for where, index in jobs:
            _check(where, index)
        for where, index in jobs:
            claim(where / INDEX_FILE, index, fingerprint_of, "trajectories", grown=("count",))
    processes().wait()
    every = [(shards_of(where, index), index) for where, index in jobs]
    todo = [
        (shards, index, number)
        for shards, index in every
        for number in among.share(range(len(shards)))
        if not _is_right(shards, number, repair)
    ]
    total = sum(len(shards.rows(number)) for shards, _, number in todo)
    shown = show and processes().is_main and bool(todo)
    if shown:
        index, size = jobs[-1][1], sum(len(s.rows(n)) * i.bytes_each for s, i, n in todo)
        print(
            f"{total:,} trajectories of {teacher.name} at {len(index.sigmas)} times, {_size(size)}",
            file=sys.stderr,
        )
    done = 0
    with Display(total, shown=shown, what="trajectories") as display:
        for shards, index, number in todo:
            for count in _make(teacher, shards, index, number):
                if shown and not done:
                    minutes = (time.perf_counter() - display.began) / count * total / 60
                    print(f"about {minutes:,.0f} minutes", file=sys.stderr)
                done += count
                display.advance(done)
            display.report(done)
    processes().wait()
    missing = any(not _is_whole(shards, n) for shards, _ in every for n in range(len(shards)))
    return None if missing else TrajectoryData(folder)


def differences(there: TrajectoriesIndex, here: TrajectoriesIndex) -> list[str]:
    """Where what was collected differs from what would be, but for how much of it.

    What a former version did not write is not compared.
    """
    old, new = settings.dump(there), settings.dump(here)
    for free in ("teacher", "count", "block", "dtype", "first_seed", "environment"):
        del old[free], new[free]
    facts = former.made_with(old["made_with"])
    if facts is not old["made_with"]:
        new["made_with"] = _alike(new["made_with"], facts)
    old["made_with"] = facts
    for index in (old, new):
        made = index["made_with"]
        while isinstance(made, dict):  # a first stage's are in those of the second
            made.pop("precision", None)  # which is that of the machine they were made on
            made = made.get("start", {}).get("first_stage")
    return list(settings.difference(old, new))


def _alike(facts: Any, like: Any) -> Any:
    """The facts whose keys are in others."""
    if not isinstance(facts, dict) or not isinstance(like, dict):
        return facts
    return {key: _alike(value, like[key]) for key, value in facts.items() if key in like}


def continued(folder: Path, index: TrajectoriesIndex) -> TrajectoriesIndex:
    """The index with the environment in which the directory was begun; saying as a former version
    said what the trajectories are made with, if that was one: its files carry a mark of it."""
    file = folder / INDEX_FILE
    if not file.exists():
        return index
    there = settings.load(TrajectoriesIndex, storage.read_json(file), str(file))
    index = dataclasses.replace(index, environment=there.environment)
    if "preconditioning" in there.made_with or differences(there, index):
        return index
    return dataclasses.replace(index, made_with=there.made_with)


def _is_whole(shards: Shards, number: int) -> bool:
    """Whether a file is there as it should be, whoever has to make it."""
    try:
        return shards.is_there(number)
    except OvertoneError:
        return False


def _check(folder: Path, index: TrajectoriesIndex) -> None:
    """What can't be claimed, before anything is."""
    file = folder / INDEX_FILE
    check_claim(file, index, fingerprint_of, "trajectories")
    if file.exists():
        there = settings.load(TrajectoriesIndex, storage.read_json(file), str(file))
        if there.count > index.count:
            raise OvertoneError(
                f"{folder} holds {there.count:,} trajectories already: --count can only grow."
            )


def _is_right(shards: Shards, number: int, thorough: bool) -> bool:
    """Whether a file is there. One that is not right is named; with `thorough` it counts as not
    there, and all of it is read."""
    try:
        there = shards.is_there(number)
    except OvertoneError:
        if thorough or _is_shorter(shards, number):
            return False
        raise
    if not there or not thorough:
        return there
    shard = shards.open(number)
    sums = checksums(shard.get_tensor("states"), shard.get_tensor("labels"))
    if torch.equal(sums, shard.get_tensor("checksums")):
        return True
    print(f"{shards.file(number)} is damaged: it is made again", file=sys.stderr)
    return False


def _is_shorter(shards: Shards, number: int) -> bool:
    """Whether a file is whole, but the last of fewer trajectories than are wanted now."""
    try:
        with safe_open(shards.file(number), "pt") as shard:
            rows = shard.get_slice(shards.main).get_shape()[0]
        count = number * shards.block + rows
        dataclasses.replace(shards, count=count, _open={}).open(number)
    except (OSError, SafetensorError, OvertoneError):
        return False
    return rows < len(shards.rows(number))


def _check_disk(folder: Path, jobs: list[tuple[Path, TrajectoriesIndex]]) -> None:
    """Whether there is room for what is missing, before anything is written."""
    needed = 0
    for where, index in jobs:
        there = sum(1 for _ in where.glob("*.safetensors"))
        needed += max(index.count - there * index.block, 0) * index.bytes_each
    above = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(above).free
    if needed > free:
        raise OvertoneError(
            f"the trajectories need {_size(needed)} in {folder}, and {_size(free)} are free: free"
            " some space, or take fewer (--count), fewer times (--num-times), another --out, or"
            " --online."
        )


def _size(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _make(teacher: Teacher, shards: Shards, index: TrajectoriesIndex, number: int) -> Iterator[int]:
    """Makes a file; yields the number in each batch of it."""
    rows = shards.rows(number)
    dtype = torch.float16 if index.dtype == "float16" else torch.float32
    parts, labels = [], []
    for at in range(0, len(rows), BATCH):
        seeds = [index.first_seed + row for row in rows[at : at + BATCH]]
        states, own = solve(teacher, seeds, index.sigmas)
        parts.append(states.to("cpu", dtype))
        labels.append(own)
        yield len(seeds)
    whole, classes = torch.cat(parts), torch.cat(labels)
    if not bool(torch.isfinite(whole).all()):
        raise OvertoneError(
            f"a trajectory of {teacher.name} is not finite in {index.dtype}: try --dtype float32."
        )
    sums = checksums(whole, classes)
    shards.write(number, {"states": whole, "labels": classes, "checksums": sums})


class OnlineTrajectories(Trajectories):
    """Trajectories solved when they are asked for: trajectory k is that of seed first_seed + k.
    There are as many as seeds, or, not `endless`, those of the index."""

    def __init__(self, teacher: Teacher, index: TrajectoriesIndex, *, endless: bool = True) -> None:
        super().__init__(index, fingerprint_of(index))
        self.teacher, self.endless = teacher, endless
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return 2**32 - self.index.first_seed if self.endless else self.index.count

    def fetch(
        self, indices: Sequence[int]
    ) -> tuple[Float[Tensor, "batch times channels rows columns"], Int[Tensor, " batch"]]:
        wanted = [int(i) for i in indices]
        if self.endless:
            self._kept = {}  # else, those held out are asked for again and again
        missing = [i for i in dict.fromkeys(wanted) if i not in self._kept]
        for at in range(0, len(missing), BATCH):
            part = missing[at : at + BATCH]
            seeds = [self.index.first_seed + i for i in part]
            made, own = solve(self.teacher, seeds, self.index.sigmas)
            self._kept |= zip(part, zip(made.cpu(), own, strict=True), strict=True)
        states, labels = zip(*(self._kept[i] for i in wanted), strict=True)
        return torch.stack(states), torch.stack(labels)
