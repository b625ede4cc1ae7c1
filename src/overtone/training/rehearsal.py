"""A dry run: a few steps, how long the whole run would take, and the memory that they needed."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from overtone.training.meter import Meter

if TYPE_CHECKING:
    from overtone.training.loop import Trainer

LIMIT_S = 40.0
"""seconds that the steps may take: a dry run is over in a minute"""
STEPS = 3
"""of the whole batch, where there is time for them"""
GROWTH = 4


@dataclass(frozen=True)
class Rehearsal:
    """What a dry run found."""

    images_per_second: float
    hours: float
    """The hours that the whole run will take."""
    loss: float
    tried: int
    """The number of images in the largest step that was tried: the batch, or fewer where there was
    no time."""
    memory: int
    """The peak of memory in bytes, on the device, or in this process where it computes on the
    CPU."""


def rehearse(trainer: Trainer, limit_s: float = LIMIT_S) -> Rehearsal:
    """Steps on more and more images, up to the whole batch if there is time, and no run directory.

    Compiled networks begin with the whole batch, for which alone they are compiled.
    """
    training, among = trainer.training, trainer.processes
    whole = training.batch_size
    size = whole if trainer.computing.compiled else among.count
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    meter = Meter(trainer.device, 0, whole, among)
    model, spent, steps, rate = trainer.prepared(), 0.0, 0, 0.0
    if size < whole:  # the first step takes longer than others, whatever its size
        spent += _timed_step(trainer, model, size, meter)
    while True:
        took = _timed_step(trainer, model, size, meter)
        spent, steps = spent + took, steps + 1 if size == whole else 0
        rate = max(rate, size / took) if steps > 1 else size / took
        larger = min(GROWTH * size, whole)
        if steps >= STEPS or spent + larger / rate > limit_s:
            break
        size = larger
    hours = training.total_images / rate / 3600
    loss = meter.report(max(size, 1))["loss"]
    return Rehearsal(rate, hours, loss, size, peak_memory(trainer.device))


def _timed_step(trainer: Trainer, model: torch.nn.Module, size: int, meter: Meter) -> float:
    """The seconds of a step on `size` images, the slowest process's."""
    batch = next(trainer.stream.batches(0, size, size, share=trainer.share))
    began = time.perf_counter()
    with trainer.computing.within_memory():
        meter.add(*trainer.step(model, batch))
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    return max(trainer.processes.gather(time.perf_counter() - began))


def peak_memory(device: torch.device) -> int:
    """Bytes that were in use at most: of a GPU what was allocated, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows has none
        import psutil  # type: ignore[import-untyped]

        return int(psutil.Process().memory_info().peak_wset)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
