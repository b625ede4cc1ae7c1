"""One process or several: the same commands under `python`, `torchrun` and `accelerate launch`.

A launcher starts the command once a process and says so in the environment (RANK, WORLD_SIZE);
`processes()` is how the code asks. accelerate sets the group up: NCCL on GPUs, gloo on CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from overtone.errors import OvertoneError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of this job, of which this is number `index` of `count`."""

    index: int = 0
    count: int = 1
    local_index: int = 0
    """The number of this process on its machine."""
    local_count: int = 1
    """The number of processes on this machine."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.index == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part: every count-th, from its own number on."""
        return items[self.index :: self.count]

    def wait(self) -> None:
        """Until every process is here, for hours if need be: one may be reading a data set."""
        if self.count > 1:
            import torch

            torch.distributed.barrier(_host_group())

    def gather(self, value: T) -> list[T]:
        """The value of every process, in their order, on all of them."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def any(self, value: bool) -> bool:
        """Whether it is true in any of them. Asked on the host: no device is waited for."""
        if self.count == 1:
            return value
        import torch

        flag = torch.tensor([float(value)])
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, _host_group())
        return bool(flag)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all of them."""
        if self.count > 1:
            import torch

            value = value.clone()
            torch.distributed.all_reduce(value)
        return value


ALONE = Processes()


def processes() -> Processes:
    """The processes that a launcher started this one with; the group is set up when first asked.

    Raises `OvertoneError` where the group comes out smaller than the launcher says: each process
    would do the whole work by itself.
    """
    told = int(os.environ.get("WORLD_SIZE", "1"))
    if told == 1:
        return ALONE
    state = _state()
    if state.num_processes != told:
        raise OvertoneError(
            f"the launcher started {told} processes, of which {state.num_processes} found each"
            " other: start with `torchrun --nproc-per-node N -m overtone ...`, or with"
            " `accelerate launch` and a configuration for several processes."
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", told))
    return Processes(state.process_index, told, state.local_process_index, here)


def finish() -> None:
    """Leave the group, if there is one, at the end of a command."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _state().destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is sharded over the processes, put together; any other as it is.

    Every process has to call it, in the same order.
    """
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def fill(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded."""
    import torch
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(target, DTensor):
        value = value.to(target.device)
        value = distribute_tensor(value, target.device_mesh, target.placements)
    with torch.no_grad():
        target.copy_(value)


def lost_connection(error: BaseException) -> bool:
    """Whether an error says that another process of the job is gone."""
    import torch

    if isinstance(error, torch.distributed.DistError):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and ("gloo" in words or "nccl" in words)


@cache
def _host_group() -> Any:
    """A group that talks over the host, so that no device is waited for, and waits patiently."""
    from datetime import timedelta

    import torch

    return torch.distributed.new_group(backend="gloo", timeout=timedelta(days=365))


def _state() -> Any:
    from accelerate import PartialState

    from overtone.precision import default_device

    # Without cpu=True, torchrun on a machine without GPUs would start jobs that ignore each other.
    return PartialState(cpu=default_device().type == "cpu")
