"""Which of several modules are on the device, where there is no room for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

ALIGNED = 64
"""bytes of which each tensor's place in a buffer is a multiple"""


class Residence:
    """Which of several modules are on the device; the others' tensors stay on the host.

    What the same modules have is one buffer, which moves at once. Modules may share tensors: what
    one leaves, and another one there has, stays. What was loaded into tensors there is kept when
    they leave.
    """

    def __init__(self, modules: list[nn.Module], device: torch.device, resident: int) -> None:
        self.modules = modules
        self.device = torch.empty(0, device=device).device  # with its index
        self.resident = resident
        self.buffers = _buffers(modules, self._rest)
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
            for buffer in self.buffers[number]:
                buffer.tensors[0].data.record_stream(here)
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
        for buffer in self.buffers[number]:
            if not self._shared(buffer):
                buffer.leave()
        for module in self.modules[number].modules():
            forget = getattr(module, "forget", None)
            if forget is not None:  # what it computed from its tensors and kept there
                forget()

    def _fetch(self, number: int) -> None:
        for buffer in self.buffers[number]:
            if not self._shared(buffer):
                buffer.fetch(self._moved)

    def _shared(self, buffer: _Buffer) -> bool:
        """Whether a module that is on the device has it."""
        return any(buffer in self.buffers[other] for other in self.there)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _rest(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self.device.type == "cuda" else tensor


class _Place(NamedTuple):
    """Where a tensor lies in a buffer."""

    start: int
    stop: int
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]

    def within(self, buffer: Tensor) -> Tensor:
        numbers = buffer[self.start : self.stop].view(self.dtype)
        return numbers.as_strided(self.size, self.stride, numbers.storage_offset())


class _Buffer:
    """Tensors that lie one behind the other in memory of the host."""

    def __init__(self, tensors: Sequence[Tensor], rest: Callable[[Tensor], Tensor]) -> None:
        self.tensors, self.places, size = list(tensors), list[_Place](), 0
        for tensor in tensors:
            like = torch.empty_like(tensor, device="meta")  # without gaps
            stop = size + like.numel() * like.element_size()
            self.places.append(_Place(size, stop, like.dtype, like.shape, like.stride()))
            size = -(-stop // ALIGNED) * ALIGNED
        self.host = rest(torch.empty(size, dtype=torch.uint8))
        for tensor, there in zip(self.tensors, self.on_host(), strict=True):
            there.copy_(tensor.data)
        self.versions: list[int] | None = None
        """those of the tensors when they came to the device, where they are there"""

    def on_host(self) -> list[Tensor]:
        return [place.within(self.host) for place in self.places]

    def fetch(self, moved: Callable[[Tensor], Tensor]) -> None:
        """Have the tensors on the device."""
        there = moved(self.host)
        for tensor, place in zip(self.tensors, self.places, strict=True):
            tensor.data = place.within(there)
        self.versions = [_version(tensor) for tensor in self.tensors]

    def leave(self) -> None:
        """Have the tensors on the host, and what was written into them on the device as well."""
        known = self.versions or map(_version, self.tensors)
        for tensor, host, version in zip(self.tensors, self.on_host(), known, strict=True):
            if version != _version(tensor):
                host.copy_(tensor.data)
            tensor.data = host
        self.versions = None


def _buffers(modules: Sequence[nn.Module], rest: Callable[[Tensor], Tensor]) -> list[list[_Buffer]]:
    """The buffers of each module: of what no other has, and of what the same others have."""
    tensors: dict[int, Tensor] = {}
    owners: dict[int, list[int]] = {}
    for number, module in enumerate(modules):
        for tensor in dict.fromkeys([*module.parameters(), *module.buffers()]):
            tensors[id(tensor)] = tensor
            owners.setdefault(id(tensor), []).append(number)
    groups: dict[tuple[int, ...], list[Tensor]] = {}
    for name, numbers in owners.items():
        groups.setdefault(tuple(numbers), []).append(tensors[name])
    found: list[list[_Buffer]] = [[] for _ in modules]
    for having, group in groups.items():
        buffer = _Buffer(group, rest)
        for number in having:
            found[number].append(buffer)
    return found


def _version(tensor: Tensor) -> int:
    """Changes with what is written into a tensor; those of inference mode have none."""
    return 0 if tensor.is_inference() else tensor._version
