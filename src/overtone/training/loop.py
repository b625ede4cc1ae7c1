"""The training loop, one for every recipe.

A step draws `batch_size` images from the stream, in parts of `micro_batch`, and moves the weights
and their average. Everything the next step depends on is in the checkpoint: the images seen, the
weights, the averages and the optimizer's moments. All randomness follows from the seed and the
number of images seen, so a run that is killed and started again ends with the same bits.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor, nn

from overtone import precision as precisions
from overtone import settings, storage
from overtone.data import ImageData
from overtone.errors import OvertoneError, RunInterruptedError
from overtone.launch import ALONE, Processes, lost_connection, processes, whole
from overtone.networks.network import Network, compile_network
from overtone.precision import Precision
from overtone.processes.noise import mix
from overtone.progress import Display
from overtone.training.ema import EMA
from overtone.training.objectives import Batch, Objective
from overtone.training.rundir import RECIPE_FILE, Progress, RunDirectory
from overtone.training.stream import TrainingStream
from overtone.training.trackers import TrackerName, Trackers

_DROPOUT, _HELD_OUT = 3, 4  # uses of the run's seed, beside those of the stream


@dataclass(frozen=True)
class Training:
    """How the weights come about. All of it is fixed for a run, but `gradient_checkpointing` and,
    with no ramp-down, `total_images`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    seed: int = 0
    """decides the initial weights, the order of the images and all noise"""
    total_images: int = 100_000_000
    """length of the run, in images seen"""
    batch_size: int = 512
    """images a step, over all micro-batches"""
    micro_batch: int | None = None
    """images a forward pass, where memory is short; none: the whole batch"""
    lr: float = 1e-3
    """Adam's learning rate after the ramp"""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates"""
    lr_rampup_images: int = 10_000_000
    """the learning rate rises linearly over this many images"""
    lr_rampdown_images: int = 0
    """and falls linearly to 0 over the run's last ones; 0: stays constant, as in EDM"""
    lr_halved_images: tuple[int, ...] = ()
    """and is halved at each of these numbers of images"""
    clip_norm: float | None = 1.0
    """gradients are scaled down to this norm; none: never"""
    ema_halflife_images: int = 500_000
    """half-life of the weights' average, in images"""
    ema_rampup_ratio: float | None = 0.05
    """the half-life is at most this share of the images seen; none: no ramp-up"""
    precision: Precision = "auto"
    """auto: bf16 where the hardware has matrix units for it"""
    compile: bool = False
    """torch.compile the network; pays on a GPU"""
    gradient_checkpointing: bool = False
    """compute a transformer's blocks twice instead of keeping their features: less memory"""

    def __post_init__(self) -> None:
        for name in ("total_images", "batch_size", "lr", "ema_halflife_images"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), not {self.betas}")
        if self.micro_batch is not None and not 0 < self.micro_batch <= self.batch_size:
            raise ValueError(f"micro_batch {self.micro_batch} is not in [1, {self.batch_size}]")

    def identity(self) -> dict[str, Any]:
        """As JSON, without what the weights do not depend on."""
        kept = settings.dump(self)
        del kept["gradient_checkpointing"]
        if not self.lr_halved_images:
            del kept["lr_halved_images"]
        if not self.lr_rampdown_images:
            del kept["total_images"]  # a constant rate lets a run be made longer
        return kept


@dataclass(frozen=True)
class Reporting:
    """How a run is watched and kept. May change when it is resumed."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    report_images: int = 100_000
    """images between two lines of the log"""
    checkpoint_images: int = 1_000_000
    """images between two checkpoints, each with a grid of samples and the held-out loss"""
    held_out_images: int = 1024
    """draws of held-out images that the loss is averaged over"""
    keep: int = 2
    """checkpoints kept, besides the best"""
    workers: int = 0
    """processes that load images; 0: the training process itself"""
    trackers: tuple[TrackerName, ...] = ()
    """tensorboard and wandb, besides the log and the grids in the run's directory"""

    def __post_init__(self) -> None:
        for name in ("report_images", "checkpoint_images", "held_out_images", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.workers < 0:
            raise ValueError(f"workers must be at least 0, not {self.workers}")


@dataclass
class Trainer:
    """Trains `model` on `objective`.

    `export(average, folder)` saves the averaged model as users load it; `picture(average)` draws
    the grid of samples. Both get the averaged copy of `model`, in eval mode. `identity` is the JSON
    of the settings that the weights depend on, `recipe` that of all settings, kept for the reader.

    Started by a launcher, the processes share each batch, and the first one writes. `alone` trains
    in this process even so.
    """

    model: nn.Module
    objective: Objective
    data: ImageData
    training: Training
    reporting: Reporting
    export: Callable[[nn.Module, Path], None]
    identity: dict[str, Any]
    recipe: dict[str, Any] | None = None
    picture: Callable[[nn.Module], Image] | None = None
    held_out: ImageData | None = None
    show: bool = True
    alone: bool = False

    def __post_init__(self) -> None:
        from accelerate import Accelerator

        self.processes = ALONE if self.alone else processes()
        device = precisions.default_device()
        self.accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
        self.device = self.accelerator.device
        self.model.to(self.device)
        training = self.training
        part = training.micro_batch or training.batch_size
        for name, size in (("batch_size", training.batch_size), ("micro_batch", part)):
            if size % self.processes.count:
                raise OvertoneError(
                    f"--{name.replace('_', '-')} {size} does not divide among"
                    f" {self.processes.count} processes."
                )
        if training.gradient_checkpointing:
            networks = [m for m in self.model.modules() if isinstance(m, Network)]
            if not any(network.repeated_blocks() for network in networks):
                kind = type(networks[0] if networks else self.model).__name__
                raise OvertoneError(
                    f"--gradient-checkpointing is for transformers, not a {kind}: --micro-batch"
                    " saves memory there."
                )
            for network in networks:
                network.gradient_checkpointing = True
        self.ema = EMA(self.model, training.ema_halflife_images, training.ema_rampup_ratio)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=training.lr, betas=training.betas, fused=True
        )
        self.stream = TrainingStream(self.data, self.objective, training.seed)
        self.progress = Progress()
        self.stop_asked = False

    def run(self, directory: Path) -> Progress:
        """Train to the end, or from where an earlier run in this directory stopped.

        Ctrl-C and SIGTERM finish the step, save a checkpoint and raise `RunInterruptedError`. A
        loss that is not finite raises `OvertoneError`; the last checkpoint before it stays.
        """
        identity = self.identity | {"images": self.data.fingerprint}
        with RunDirectory(directory, identity, self.processes) as run:
            model = self._prepared()
            self.progress = run.restore(self.model, self.ema, self.optimizer)
            if self.recipe is not None and self.processes.is_main:
                storage.write_json(run.path / RECIPE_FILE, self.recipe)
            if self.progress.images < self.training.total_images:
                names = self.reporting.trackers if self.processes.is_main else ()
                recipe = self.recipe or self.identity
                self.trackers = Trackers(names, run.path, recipe, self.progress.images)
                with _asked_to_stop(self), self.trackers:
                    try:
                        self._train(run, model)
                    except RuntimeError as error:
                        if self.processes.count == 1 or not lost_connection(error):
                            raise
                        raise OvertoneError(
                            f"process {self.processes.index} of {self.processes.count} lost its"
                            f" connection to the others near image {self.progress.images:,}: one of"
                            " them died, and training stopped. The same command goes on from the"
                            f" last checkpoint in {run.path}."
                        ) from error
        return self.progress

    def _train(self, run: RunDirectory, model: nn.Module) -> None:
        total, first = self.training.total_images, self.progress.images
        spent, began = self.progress.seconds, time.perf_counter()
        # Asked of all at once, so that none sees what another has written since.
        if self.processes.any(run.latest() is None):
            self._checkpoint(run)
        meter = _Meter(self.device, first, self.training.batch_size, self.processes)
        with Display(total, first, shown=self.show and self.processes.is_main) as display:
            for batch in self._batches(first):
                meter.add(*self._step(model, batch))
                self.progress.images += self.training.batch_size
                seen = self.progress.images
                display.advance(seen)
                stop = self.processes.any(self.stop_asked)
                last = seen >= total or stop
                if last or self._due(seen, self.reporting.report_images):
                    self.progress.seconds = spent + time.perf_counter() - began
                    entry = meter.report(seen) | {"lr": self._lr(seen), "at": time.time()}
                    self._log(run, entry | {"seconds": round(self.progress.seconds, 3)})
                    display.report(seen, f"loss {entry['loss']:.4f}")
                if last or self._due(seen, self.reporting.checkpoint_images):
                    meter.check(seen)
                    self._checkpoint(run)
                    meter.restart_clock()
                if stop and seen < total:
                    raise RunInterruptedError(
                        f"interrupted at image {seen:,}, and saved in {run.path}: started again,"
                        " the run goes on from there."
                    )

    def rehearse(self, steps: int = 3) -> dict[str, float]:
        """A dry run: a few steps, and no run directory. Returns images/s and hours."""
        meter = _Meter(self.device, 0, self.training.batch_size, self.processes)
        batches = self._batches(0)
        model, times = self._prepared(), []
        for batch in islice(batches, steps):
            began = time.perf_counter()
            meter.add(*self._step(model, batch))
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        seen = len(times) * self.training.batch_size
        rate = self.training.batch_size / min(times)
        hours = self.training.total_images / rate / 3600
        return {"images_per_second": rate, "hours": hours, "loss": meter.report(seen)["loss"]}

    def held_out_loss(self) -> float:
        """The averaged model's loss, the same draws every time; on held-out images if there are."""
        data = self.data if self.held_out is None else self.held_out
        stream = TrainingStream(data, self.objective, mix(self.training.seed, _HELD_OUT))
        batch = min(self.training.micro_batch or self.training.batch_size, 256)
        count = max(batch, self.reporting.held_out_images // batch * batch)
        total = torch.zeros((), device=self.device)
        for part in stream.batches(0, count, batch, share=self._share):
            with torch.no_grad(), self._autocast():
                total += self.objective.loss(self.ema.module, self._moved(part)).sum()
        return self.processes.sum(total).item() / count

    def _prepared(self) -> nn.Module:
        """The model as a step calls it: one of several processes, sharded, compiled if asked for.

        Sharding (FSDP) is accelerate's, from its configuration.
        """
        model: nn.Module = self.model
        if self.sharded:
            # FSDP takes parameters that are contiguous only.
            for parameter in self.model.parameters():
                parameter.data = parameter.data.contiguous()
            model, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
            self.model = self.ema.source = model
            self.ema.shard()
        elif not self.alone:
            model = self.accelerator.prepare(self.model)
        if self.training.compile:
            compile_network(model)
        return model

    @property
    def sharded(self) -> bool:
        """Whether accelerate was configured to shard the model over the processes.

        Raises `OvertoneError` for configurations other than FSDP 2 and plain data parallelism.
        """
        if self.processes.count == 1:
            return False
        kind = self.accelerator.distributed_type
        if kind == "FSDP":
            version = self.accelerator.state.fsdp_plugin.fsdp_version
            if version != 2:
                raise OvertoneError(
                    "sharding works with version 2 of FSDP: put `fsdp_version: 2` into accelerate's"
                    " configuration."
                )
            return True
        if not kind.startswith("MULTI_"):
            raise OvertoneError(f"accelerate is configured for {kind}, which is not supported.")
        return False

    def _step(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """One optimizer step; returns the mean loss and the gradient's norm, on the device."""
        seen, training = self.progress.images, self.training
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(seen + training.batch_size)
        # Dropout draws from the global generator; tie it to the place in the run.
        torch.manual_seed(mix(training.seed, _DROPOUT, seen, self.processes.index))
        model.train()
        size = len(next(iter(batch.values())))
        part = (training.micro_batch or training.batch_size) // self.processes.count
        losses = torch.zeros((), device=self.device)
        for at in range(0, size, part):
            micro = {name: tensor[at : at + part] for name, tensor in batch.items()}
            # Processes add their gradients up once a step, behind the last micro-batch.
            more = at + part < size
            together = self.processes.count > 1
            with self.accelerator.no_sync(model) if more and together else nullcontext():
                with self._autocast():
                    loss = self.objective.loss(model, self._moved(micro)).sum() / size
                loss.backward()  # not accelerate's, which scales by its own configuration
            losses += loss.detach()
        norm = nn.utils.clip_grad_norm_(
            self.model.parameters(), training.clip_norm or float("inf"), foreach=True
        )
        norm = whole(norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(seen, training.batch_size)
        return losses, norm

    def _lr(self, images: int) -> float:
        """The learning rate of the step that ends at `images`."""
        training = self.training
        rate = training.lr * min(1.0, images / max(training.lr_rampup_images, 1))
        rate *= 0.5 ** sum(images > milestone for milestone in training.lr_halved_images)
        if training.lr_rampdown_images:
            left = training.total_images - images + training.batch_size
            rate *= min(1.0, max(left, 0) / training.lr_rampdown_images)
        return rate

    def _batches(self, start: int) -> Iterator[Batch]:
        return self.stream.batches(
            start,
            self.training.total_images,
            self.training.batch_size,
            share=self._share,
            workers=self.reporting.workers,
        )

    @property
    def _share(self) -> slice:
        """The part of every batch that is this process's."""
        return slice(self.processes.index, None, self.processes.count)

    def _checkpoint(self, run: RunDirectory) -> None:
        """Held-out loss, grid of samples, and the state to go on from."""
        progress = self.progress
        self.ema.gather()
        loss = self.held_out_loss()
        # Without a test split there are only training images to measure on; say so.
        key = "averaged_loss" if self.held_out is None else "held_out_loss"
        self._log(run, {"images": progress.images, key: loss})
        if progress.best_loss is None or loss < progress.best_loss:
            progress.best_loss, progress.best_images = loss, progress.images
        run.save(
            progress,
            lambda folder: self.export(self.ema.module, folder),
            self.model,
            self.ema.module,
            self.optimizer,
            self.reporting.keep,
        )
        if self.picture is not None and progress.images and self.processes.is_main:
            picture = self.picture(self.ema.module)
            with storage.new_file(run.path / "grids" / f"{progress.images:09d}.png") as file:
                picture.save(file)
            self.trackers.picture(picture, progress.images)
        self.processes.wait()  # here, and not in a step's sum, which is given up after some minutes

    def _log(self, run: RunDirectory, entry: dict[str, Any]) -> None:
        run.log(entry)
        self.trackers.log(entry)

    def _due(self, seen: int, every: int) -> bool:
        """Whether the step that ended at `seen` passed a multiple of `every`."""
        return seen // every > (seen - self.training.batch_size) // every

    def _moved(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def _autocast(self) -> AbstractContextManager:
        return precisions.autocast(self.training.precision, self.device)


class _Meter:
    """Means of the loss and the gradient's norm since the last report, kept on the device.

    Nothing waits for the device but `report` and `check`, which read the numbers.
    """

    def __init__(
        self, device: torch.device, images: int, batch: int, among: Processes = ALONE
    ) -> None:
        self.batch = batch
        self.among = among
        self.sums = torch.zeros(2, device=device)
        self.good = torch.zeros((), dtype=torch.int64, device=device)  # steps before the first bad
        self.bad = torch.zeros((), dtype=torch.bool, device=device)
        self.steps = self.steps_taken = 0
        self.clock, self.seconds, self.images = time.perf_counter(), 0.0, images

    def add(self, loss: Tensor, norm: Tensor) -> None:
        self.sums += torch.stack((loss, norm))
        self.bad |= ~torch.isfinite(loss + norm)
        self.good += ~self.bad
        self.steps += 1
        self.steps_taken += 1

    def report(self, images: int) -> dict[str, float]:
        """The means as a line of the log, and a fresh start. Raises on a loss not finite."""
        self.check(images)
        loss, norm = (self.among.sum(self.sums) / self.among.count / self.steps).tolist()
        self.restart_clock(counted=True)
        rate = (images - self.images) / self.seconds
        self.sums.zero_()
        self.steps, self.seconds, self.images = 0, 0.0, images
        return {"images": images, "loss": loss, "grad_norm": norm, "images_per_second": rate}

    def restart_clock(self, *, counted: bool = False) -> None:
        """Leave the time since the last call out of the rate (a checkpoint's), or count it in."""
        now = time.perf_counter()
        self.seconds += now - self.clock if counted else 0.0
        self.clock = now

    def check(self, images: int) -> None:
        """Raise `OvertoneError` if any loss so far was not finite, naming its step."""
        if self.bad.item():
            late = self.steps_taken - int(self.good.item()) - 1
            raise OvertoneError(
                f"the loss was not finite in the step of image {images - late * self.batch:,}:"
                " training stopped, and the last checkpoint is from before. Try a lower --lr,"
                " or --precision fp32, in another --out."
            )


@contextmanager
def _asked_to_stop(trainer: Trainer) -> Iterator[None]:
    """Finish the step and save on the first SIGINT or SIGTERM; the second one acts as usual."""

    def ask(number: int, frame: FrameType | None) -> None:
        trainer.stop_asked = True
        for name, handler in before.items():
            signal.signal(name, handler)

    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        for name in before:
            signal.signal(name, ask)
    except ValueError:  # not the main thread, which alone may set handlers
        yield
        return
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
