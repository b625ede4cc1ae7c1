"""The training loop, one for every recipe.

A step draws `batch_size` images from the stream, in parts of `micro_batch`, and moves the weights
and their average. Everything the next step depends on is in the checkpoint: the images seen, the
weights, the averages and the optimizer's moments. All randomness follows from the seed and the
number of images seen, so a run that is killed and started again ends with the same bits.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from overtone import settings, storage
from overtone.errors import OvertoneError, RunInterruptedError
from overtone.launch import lost_connection
from overtone.networks.network import Network, compile_network
from overtone.pipelines.receipt_files import save_png
from overtone.processes.noise import mix
from overtone.progress import Display
from overtone.runs import RECIPE_FILE
from overtone.training.best import criterion_of
from overtone.training.clipping import step_clipped
from overtone.training.computing import Computing
from overtone.training.configs.recipe import Recipe
from overtone.training.ema import EMA, Averages
from overtone.training.initial import known_facts
from overtone.training.interrupt import asked_to_stop
from overtone.training.meter import Meter
from overtone.training.objectives import Batch
from overtone.training.phema import Snapshots
from overtone.training.progress import Progress
from overtone.training.rundir import RunDirectory
from overtone.training.scoring import Scoring
from overtone.training.stream import TrainingStream
from overtone.training.task import Task
from overtone.training.trackers import Trackers

_DROPOUT, _HELD_OUT = 3, 4  # uses of the run's seed, beside those of the stream


class Trainer:
    """Trains the model of a task as a recipe says; the recipe is kept for the reader.

    Started by a launcher, the processes share each batch, and the first one writes.
    """

    def __init__(self, task: Task, recipe: Recipe, *, show: bool = True) -> None:
        self.task, self.recipe, self.show = task, recipe, show
        self.training, self.reporting = recipe.training, recipe.reporting
        self.model, self.objective = task.model, task.objective
        self.computing = Computing(self.training, alone=task.alone, show=show)
        self.processes, self.device = self.computing.processes, self.computing.device
        self.model.to(self.device)
        if self.training.gradient_checkpointing:
            self._checkpoint_gradients()
        training = self.training
        self.ema = EMA(self.model, training.ema_halflife_images, training.ema_rampup_ratio)
        self.averages = Averages(self.ema, training.ema_lengths)
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
            self.model.parameters(), lr=training.lr, betas=training.betas, fused=True
        )
        self.stream = TrainingStream(task.data, self.objective, training.seed)
        self.progress = Progress()
        self.criterion = criterion_of(self.reporting, held_out=task.held_out is not None)
        self.trackers = Trackers((), Path(), {}, 0)
        self.scoring: Scoring | None = None
        self.stop_asked = False

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        number: int | None = None,
        *,
        out: Path | None = None,
        show: bool = True,
        **given: Any,
    ) -> Trainer:
        """The trainer of a recipe, or of expert `number` of one: data opened and checked, the model
        built. `out` is where it will run, and may have begun; `given` are further arguments of the
        recipe's task."""
        if begun := known_facts(out, recipe.begins_with):
            given["begun"] = begun
        return cls(recipe.task(number, show=show, **given), recipe, show=show)

    def _checkpoint_gradients(self) -> None:
        networks = [m for m in self.model.modules() if isinstance(m, Network)]
        if not any(network.repeated_blocks() for network in networks):
            raise OvertoneError(
                f"--gradient-checkpointing is for transformers, not a {self.task.name}:"
                " --micro-batch saves memory there."
            )
        for network in networks:
            network.gradient_checkpointing = True

    def run(self, directory: Path, *, skip_bad: bool = False) -> Progress:
        """Train to the end, or from where an earlier run in this directory stopped.

        Ctrl-C, SIGTERM and SIGHUP finish the step, save a checkpoint and raise
        `RunInterruptedError`. A loss that is not finite raises `OvertoneError`; the last checkpoint
        before it stays. A checkpoint that is not as it was written raises `OvertoneError`; with
        `skip_bad` the run goes on from the one before.
        """
        identity = self.task.identity | {"images": self.task.data.fingerprint}
        if self.reporting.scored_images:
            self.scoring = Scoring(self.task, self.reporting)
        with RunDirectory(directory, identity, self.processes) as run:
            recipe = settings.dump(self.recipe.anywhere())
            if self.processes.is_main:
                storage.write_json(run.path / RECIPE_FILE, recipe)
            model = self.prepared()
            self.progress = run.restore(
                self.model, self.averages.files, self.optimizer, skip_bad=skip_bad
            )
            self.criterion.judge_again(self.progress, run.read_log(), run.kept())
            self._say_what_differs()
            if self.processes.any(not self._picture_of(run).exists()):
                self.ema.gather()
                self._picture(run)  # which a kill behind its checkpoint has left out
            if self.progress.images < self.training.total_images:
                names = self.reporting.trackers if self.processes.is_main else ()
                self.trackers = Trackers(names, run.path, recipe, self.progress.images)
                with (
                    asked_to_stop(self, show=self.show and self.processes.is_main),
                    self.trackers,
                    self.computing.algorithms(),
                    self.computing.within_memory(),
                ):
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
        meter = Meter(self.device, first, self.training.batch_size, self.processes)
        with Display(total, first, shown=self.show and self.processes.is_main) as display:
            for batch in self.batches(first):
                meter.add(*self.step(model, batch))
                self.progress.images += self.training.batch_size
                seen = self.progress.images
                display.advance(seen)
                stop = self.processes.any(self.stop_asked)
                # A checkpoint closes a mean of the log, which a run that goes on from it can't.
                closes = seen >= total or stop or self._due(seen, self.reporting.checkpoint_images)
                if closes or self._due(seen, self.reporting.report_images):
                    self.progress.seconds = spent + time.perf_counter() - began
                    entry = meter.report(seen) | {"lr": self._lr(seen), "at": time.time()}
                    self._log(run, entry | {"seconds": round(self.progress.seconds, 3)})
                    display.report(seen, f"loss {entry['loss']:#.4g}")
                if closes:
                    meter.check(seen)
                # Before the checkpoint, behind which a run that goes on writes none for its images.
                due = self._due(seen, self.reporting.snapshots_every(total))
                if self.averages.powers and (closes or due):
                    self._write_averages(run)
                if closes:
                    self._checkpoint(run)
                    meter.restart_clock()
                if stop and seen < total:
                    raise RunInterruptedError(
                        f"interrupted at image {seen:,}, and saved in {run.path}: started again,"
                        " the run goes on from there."
                    )

    def held_out_loss(self) -> float:
        """The averaged model's loss, the same draws every time; on held-out images if there are."""
        data = self.task.data if self.task.held_out is None else self.task.held_out
        stream = TrainingStream(data, self.objective, mix(self.training.seed, _HELD_OUT))
        batch = min(self.training.micro_batch or self.training.batch_size, 256)
        count = max(batch, self.reporting.held_out_images // batch * batch)
        total = torch.zeros((), device=self.device)
        for part in stream.batches(0, count, batch, share=self.share):
            with torch.no_grad(), self.computing.autocast():
                total += self._loss(self.ema.module, self.computing.moved(part)).sum()
        return self.processes.sum(total).item() / count

    def prepared(self) -> nn.Module:
        """The model as a step calls it: one of several processes, sharded, compiled."""
        sharded = self.computing.sharded
        if sharded and self.objective.needs_average:
            raise OvertoneError(
                "this objective looks at the averaged model, which is in parts where the model is"
                " sharded: train it without FSDP."
            )
        model, self.optimizer = self.computing.prepared(self.model, self.optimizer)
        if sharded:
            self.model = model
            self.averages.shard(model)
        if self.computing.compiled:
            compile_network(model)
        return model

    def step(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """One optimizer step; returns the mean loss and the gradient's norm, on the device."""
        seen, training = self.progress.images, self.training
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(seen + training.batch_size)
        # Dropout draws from the global generator; tie it to the place in the run.
        torch.manual_seed(mix(training.seed, _DROPOUT, seen, self.processes.index))
        model.train()
        size = len(next(iter(batch.values())))
        part = self.computing.part
        losses = torch.zeros((), device=self.device)
        # One autocast around all micro-batches casts each weight once a step.
        with self.computing.autocast():
            for at in range(0, size, part):
                micro = {name: tensor[at : at + part] for name, tensor in batch.items()}
                with self.computing.waiting(model, more=at + part < size):
                    loss = self._loss(model, self.computing.moved(micro)).sum() / size
                    with torch.autocast(self.device.type, enabled=False):
                        loss.backward()  # not accelerate's, which scales as it is configured
                losses += loss.detach()
        norm = step_clipped(self.optimizer, training.clip_norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.averages.update(seen, training.batch_size)
        return losses, norm

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of each image; the averaged model is shown to objectives that need it."""
        average = (self.ema.module,) if self.objective.needs_average else ()
        return self.objective.loss(model, batch, *average)

    def _lr(self, images: int) -> float:
        """The learning rate of the step that ends at `images`."""
        training = self.training
        rate = training.lr * min(1.0, images / max(training.lr_rampup_images, 1))
        rate *= 0.5 ** sum(images > milestone for milestone in training.lr_halved_images)
        if training.lr_rampdown_images:
            left = training.total_images - images + training.batch_size
            rate *= min(1.0, max(left, 0) / training.lr_rampdown_images)
        return rate

    def batches(self, start: int) -> Iterator[Batch]:
        """The batches of this process from image `start` on, each on its way to the device."""
        data, asked = self.task.data, self.reporting.workers
        batches = self.stream.batches(
            start,
            self.training.total_images,
            self.training.batch_size,
            share=self.share,
            workers=0 if self.task.loads_here else self.computing.loaders(asked, data),
        )
        return self.computing.uploaded(batches)

    @property
    def share(self) -> slice:
        """The part of every batch that is this process's."""
        return slice(self.processes.index, None, self.processes.count)

    def _checkpoint(self, run: RunDirectory) -> None:
        """Held-out loss, grid of samples, and the state to go on from."""
        progress = self.progress
        for ema in self.averages:
            ema.gather()
        # Without held-out images there are only training images to measure on; say so.
        key = "averaged_loss" if self.task.held_out is None else "held_out_loss"
        entry = {"images": progress.images, key: self.held_out_loss()}
        self._log(run, entry)
        self.criterion.judge(progress, entry | self._score(run))
        run.save(
            progress,
            lambda folder: self.task.export(self.ema.module, folder, progress),
            self.model,
            self.averages.files,
            self.optimizer,
            self.reporting.keep,
        )
        self._picture(run)

    def _write_averages(self, run: RunDirectory) -> None:
        """Write down what averages of other lengths are made of (`phema`)."""
        for length, ema in self.averages.powers.items():
            module = ema.gather()
            if self.processes.is_main:
                network = getattr(module, "network", module)
                Snapshots(run.path).write(self.progress.images, length, network)
        self.processes.wait()

    def _score(self, run: RunDirectory) -> dict[str, Any]:
        """The scores of a checkpoint's images, of which there are none before the first step, as
        the first process knows them."""
        scores: dict[str, Any] = {}
        if self.scoring is not None and self.progress.images and self.processes.is_main:
            scores = self.scoring(self.ema.module, self.progress, show=self.show)
            if scores:
                self._log(run, {"images": self.progress.images} | scores)
        self.processes.wait()
        return scores

    def _picture_of(self, run: RunDirectory) -> Path:
        return run.path / "grids" / f"{self.progress.images:09d}.png"

    def _picture(self, run: RunDirectory) -> None:
        """The grid of samples of the last checkpoint."""
        progress, picture = self.progress, None
        if progress.images and self.processes.is_main:
            picture = self.task.picture(self.ema.module, progress)
        if picture is not None:
            save_png(picture.image, self._picture_of(run), picture.receipt, picture.layout)
            self.trackers.picture(picture.image, progress.images)
        self.processes.wait()  # here, and not in a step's sum, which is given up after some minutes

    def _say_what_differs(self) -> None:
        before, now = self.progress.computed, self.computing.told(self.task.what)
        if before and before != now and self.show and self.processes.is_main:
            print(
                f"The run is resumed with {now}, and was computed with {before} before. Only"
                " rounding and the features that dropout drops differ.",
                file=sys.stderr,
            )
        self.progress.computed = now

    def _log(self, run: RunDirectory, entry: dict[str, Any]) -> None:
        run.log(entry)
        self.trackers.log(entry)

    def _due(self, seen: int, every: int) -> bool:
        """Whether the step that ended at `seen` passed a multiple of `every`."""
        return seen // every > (seen - self.training.batch_size) // every
