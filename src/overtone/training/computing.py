"""What a run computes with. Its weights depend on all of it, and by rounding only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property

import torch
from torch import nn
from torch.optim import Optimizer

from overtone import precision
from overtone.data.images import ImageData
from overtone.errors import OvertoneError, counted, is_out_of_memory, plain
from overtone.launch import ALONE, processes
from overtone.networks.network import why_no_compiler
from overtone.training.configs.training import Training
from overtone.training.objectives import Batch


class Computing:
    """The device, the processes that share each batch, the kind of numbers, and the compiler.

    `alone` is a model that one process trains, whatever the number of them. Raises `OvertoneError`
    for a batch that does not divide among the processes.
    """

    def __init__(self, training: Training, *, alone: bool = False, show: bool = True) -> None:
        from accelerate import Accelerator

        self.training, self.alone, self.show = training, alone, show
        self.processes = ALONE if alone else processes()
        device = precision.default_device()
        self.accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
        self.device = self.accelerator.device
        count = self.processes.count
        whole = training.micro_batch or training.batch_size
        for name, size in (("batch-size", training.batch_size), ("micro-batch", whole)):
            if size % count:
                raise OvertoneError(
                    f"--{name} {size} does not divide among {count} processes: take a multiple."
                )
        self.part = whole // count
        """images of a micro-batch in this process"""

    @cached_property
    def compiled(self) -> bool:
        """Whether the network is compiled: as was asked for, else on a GPU that has a compiler.

        Raises `OvertoneError` where it was asked for and there is none.
        """
        asked = self.training.compile
        if asked is False or (asked is None and self.device.type != "cuda"):
            return False
        if not (reason := why_no_compiler(self.device.type)):
            return True
        if asked:
            raise OvertoneError(f"--compile: torch.compile does not work here ({reason:.300}).")
        if self.show and self.processes.is_main:
            told = f"training without torch.compile, which does not work here ({reason:.300})"
            print(plain(told), file=sys.stderr)
        return False

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

    def prepared(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """A model as one of several processes trains it, sharded if accelerate's configuration says
        so, and its optimizer."""
        if self.alone:
            return model, optimizer
        if not self.sharded:
            return self.accelerator.prepare(model), optimizer
        for parameter in model.parameters():  # FSDP takes those that are contiguous only
            parameter.data = parameter.data.contiguous()
        model, optimizer = self.accelerator.prepare(model, optimizer)
        return model, optimizer

    def waiting(self, model: nn.Module, *, more: bool) -> AbstractContextManager:
        """Around a backward pass: processes add their gradients up once a step, behind the last
        micro-batch, and not where `more` follow."""
        apart = more and self.processes.count > 1
        return self.accelerator.no_sync(model) if apart else nullcontext()

    def autocast(self) -> AbstractContextManager:
        """The context in which the model runs, in the precision that was asked for."""
        return precision.autocast(self.training.precision, self.device)

    def loaders(self, asked: int | None, data: ImageData) -> int:
        """The number of processes that load images for this one, chosen if none was asked for.

        A CPU that trains has no core to spare for images that are stored as they are wanted, and
        one in four for others. A GPU is kept waiting by the draws alone, which each image needs.
        Where processes do not begin as copies of this one, somebody's data may not get there.
        """
        if asked is not None:
            return asked
        if sys.platform != "linux":
            return 0
        cores = (os.cpu_count() or 1) // self.processes.local_count
        if self.device.type == "cpu":
            return 0 if data.stored else min(cores // 4, 4)
        return min(cores - 1, 4 if data.stored else 12)

    def moved(self, batch: Batch) -> Batch:
        """A batch on the device."""
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    @contextmanager
    def algorithms(self) -> Iterator[None]:
        """Around a run: cuDNN chooses kernels by trying them, or they are the same always."""
        cudnn, before = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
        fixed = self.training.deterministic or before
        if self.training.deterministic:  # which cuBLAS reads when it is first used
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        with ExitStack() as stack:
            stack.callback(setattr, cudnn, "benchmark", cudnn.benchmark)
            stack.callback(torch.use_deterministic_algorithms, before)
            cudnn.benchmark = not fixed
            torch.use_deterministic_algorithms(fixed)
            yield

    @contextmanager
    def within_memory(self) -> Iterator[None]:
        """Around steps: `OvertoneError` where the memory is too small for them."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            count, training = self.processes.count, self.training
            where = f"the memory of {self.device.type}" if self.device.type != "cpu" else "memory"
            fewer = max(count, self.part * count // 2 // count * count)
            advice = (
                f"--micro-batch {fewer} takes fewer at a time and computes the same,"
                f" --batch-size {fewer} takes smaller steps"
                if self.part > 1
                else "train a smaller network, or smaller images"
            )
            if not training.gradient_checkpointing:
                advice += "; --gradient-checkpointing saves memory in transformers"
            raise OvertoneError(
                f"{where} is too small for training on"
                f" {counted(self.part * count, 'image')} at a time: {advice}."
            ) from error

    def uploaded(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches, each on its way to a GPU while the step before it is computed. Where steps are
        taken in micro-batches memory is short, and they wait on the host."""
        if self.device.type != "cuda" or self.training.micro_batch is not None:
            yield from batches
            return
        stream, sent = torch.cuda.Stream(self.device), list[Batch]()
        for batch in batches:
            with torch.cuda.stream(stream):
                there, arrived = self.moved(batch), stream.record_event()
            yield from sent
            here = torch.cuda.current_stream(self.device)
            here.wait_event(arrived)  # the GPU does, and not the host
            for tensor in there.values():
                tensor.record_stream(here)
            sent = [there]
        yield from sent

    def told(self, what: str) -> str:
        """All that may differ when a run goes on, in words; `what` are the items of a batch."""
        kind = precision.resolve(self.training.precision, self.device)
        count, how = self.processes.count, ", compiled" if self.compiled else ""
        among = f" on each of {count} processes" if count > 1 else ""
        return f"{kind} on {self.device.type}{how}, {self.part} {what} at a time{among}"
