"""The stream of training images: image n of a run is a function of n and the run's seed alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from overtone import precision
from overtone.data.images import ImageData
from overtone.errors import OvertoneError
from overtone.processes.noise import SeededNoise, mix
from overtone.training.objectives import Batch, Objective

# What a number drawn from the run's seed is for, so that no two uses share one.
_ORDER, _DRAW = 1, 2


class TrainingStream(Dataset):
    """Every image of a run, numbered from 0 in the order in which they are seen.

    Each pass over the data is a new permutation. The order and the draws of image n depend on
    (seed, n), not on the batch size, the number of processes or where the run was interrupted:
    a resumed run goes on with exactly the images and noise that it would have had.
    """

    def __init__(self, data: ImageData, objective: Objective, seed: int) -> None:
        self.data = data
        self.objective = objective
        self.seed = seed
        self._permutation: tuple[int, Tensor] | None = None  # of the current pass

    def index(self, n: int) -> int:
        """Which image of the data is number n."""
        if self.data.endless:
            return n
        epoch, place = divmod(n, len(self.data))
        if self._permutation is None or self._permutation[0] != epoch:
            generator = torch.Generator().manual_seed(mix(self.seed, _ORDER, epoch))
            self._permutation = epoch, torch.randperm(len(self.data), generator=generator)
        return int(self._permutation[1][place])

    def __getitems__(self, numbers: Sequence[int]) -> Batch | OvertoneError:
        """The batch of images with these numbers; the DataLoader's entry."""
        try:
            items, labels = self.data.fetch([self.index(n) for n in numbers])
        except OvertoneError as error:
            if get_worker_info() is None:
                raise
            return error  # the loader would make a page of it
        source = SeededNoise(mix(self.seed, _DRAW, n) for n in numbers)
        return self.objective.draw(self.data.clean(items, source), labels, source)

    def batches(
        self, start: int, stop: int, batch: int, *, share: slice = slice(None), workers: int = 0
    ) -> Iterator[Batch]:
        """Batches of images start..stop, loaded ahead by `workers` processes where there are any.

        `share` is the part of each batch that this process takes.
        """
        loader = DataLoader(
            self,
            batch_sampler=_Batches(start, stop, batch, share),
            collate_fn=_as_it_is,
            num_workers=min(workers, os.cpu_count() or 1),  # more only get in each other's way
            # Apple's device has no such memory, and torch warns of each loader that asks for it.
            pin_memory=precision.default_device().type not in ("cpu", "mps"),
            persistent_workers=False,
        )
        for loaded in loader:
            if isinstance(loaded, OvertoneError):
                raise loaded
            yield loaded


class _Batches(torch.utils.data.Sampler):
    """The numbers of each batch, made as they are needed."""

    def __init__(self, start: int, stop: int, batch: int, share: slice) -> None:
        self.starts, self.batch, self.share = range(start, stop, batch), batch, share

    def __iter__(self) -> Iterator[range]:
        return (range(n, n + self.batch)[self.share] for n in self.starts)

    def __len__(self) -> int:
        return len(self.starts)


def _as_it_is(batch: Any) -> Any:
    return batch
