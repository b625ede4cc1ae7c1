"""What a run computes with. Its weights depend on all of it, and by rounding only."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

from torch import nn
from torch.optim import Optimizer

from overtone import precision
from overtone.errors import OvertoneError, plain
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
                raise OvertoneError(f"--{name} {size} does not divide among {count} processes.")
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

    def moved(self, batch: Batch) -> Batch:
        """A batch on the device."""
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def told(self, what: str) -> str:
        """All that may differ when a run goes on, in words; `what` are the items of a batch."""
        kind = precision.resolve(self.training.precision, self.device)
        count, how = self.processes.count, ", compiled" if self.compiled else ""
        among = f" on each of {count} processes" if count > 1 else ""
        return f"{kind} on {self.device.type}{how}, {self.part} {what} at a time{among}"
