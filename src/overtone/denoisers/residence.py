"""Which of several modules are on the device, where there is no room for all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Residence:
    """Which of several modules are on the device; the others' tensors stay on the host.

    Modules may share tensors: what one leaves, and another one there has, stays. What was loaded
    into tensors there is kept when they leave.
    """

    def __init__(self, modules: list[nn.Module], device: torch.device, resident: int) -> None:
        self.modules = modules
        self.device = torch.empty(0, device=device).device  # with its index
        self.resident = resident
        self.tensors = [[*m.parameters(), *m.buffers()] for m in modules]
        host = {id(t): self._rest(t.data) for tensors in self.tensors for t in tensors}
        self.host = [[host[id(t)] for t in tensors] for tensors in self.tensors]
        self.versions = [[-1 for _ in tensors] for tensors in self.tensors]
        self.ready: dict[int, Any] = {}
        self.there: list[int] = []  # the one used last at the end
        for number in range(len(modules)):
            self._leave(number)
        self._begin()

    def _begin(self) -> None:
        cuda = self.device.type == "cuda"
        self.stream: Any = torch.cuda.Stream(self.device) if cuda else None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "stream"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._begin()

    def enter(self, number: int) -> None:
        """Have a module on the device, others gone where there is no room."""
        if number in self.there:
            self.there.remove(number)
        else:
            self._make_room()
            self._fetch(number)
        self.there.append(number)
        event = self.ready.pop(number, None)
        if event is not None:  # fetched on the other stream: what comes now waits, the host doesn't
            torch.cuda.current_stream(self.device).wait_event(event)

    def expect(self, number: int) -> None:
        """Begin to fetch a module that is wanted soon, if there is room beside the last used."""
        if number in self.there or self.resident == 1:
            return
        self._make_room()
        if self.stream is None:
            self._fetch(number)
        else:
            with torch.cuda.stream(self.stream):
                self._fetch(number)
                self.ready[number] = self.stream.record_event()
            here = torch.cuda.current_stream(self.device)
            for tensor in self.tensors[number]:
                tensor.data.record_stream(here)
        self.there.insert(0, number)

    def clear(self) -> None:
        """Have all modules on the host, as before they are saved or moved."""
        while self.there:
            self._leave(self.there.pop())

    def _make_room(self) -> None:
        while len(self.there) >= self.resident:
            self._leave(self.there.pop(0))

    def _leave(self, number: int) -> None:
        self.ready.pop(number, None)
        torch.clear_autocast_cache()  # weights that autocast converted would stay
        needed = {id(tensor) for other in self.there for tensor in self.tensors[other]}
        for tensor, host, version in zip(
            self.tensors[number], self.host[number], self.versions[number], strict=True
        ):
            if id(tensor) not in needed:
                if version not in (-1, _version(tensor)):
                    host.copy_(tensor.data)
                tensor.data = host
        self.versions[number] = [-1 for _ in self.tensors[number]]
        for module in self.modules[number].modules():
            forget = getattr(module, "forget", None)
            if forget is not None:  # what it computed from its tensors and kept there
                forget()

    def _fetch(self, number: int) -> None:
        here = {id(tensor) for other in self.there for tensor in self.tensors[other]}
        for tensor, host in zip(self.tensors[number], self.host[number], strict=True):
            if id(tensor) not in here:
                tensor.data = self._moved(host)
        self.versions[number] = [_version(tensor) for tensor in self.tensors[number]]

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _rest(self, tensor: Tensor) -> Tensor:
        tensor = tensor.cpu()
        return tensor.pin_memory() if self.device.type == "cuda" else tensor


def _version(tensor: Tensor) -> int:
    """Changes with what is written into a tensor; those of inference mode have none."""
    return 0 if tensor.is_inference() else tensor._version
