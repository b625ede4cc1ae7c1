"""The settings of a module, held against the file of its weights before any memory is taken.

A config.json of a few bytes can ask for any amount of memory and time. A module is therefore built
of tensors without numbers first (torch's device "meta"), under a watch that ends the building as
soon as there are more tensors, or more numbers in them, than the file fills.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor
from torch.nn.modules import module as hooks

from overtone.errors import OvertoneError
from overtone.storage import Stored

MODULES_PER_TENSOR = 40
"""modules that there may be for each tensor in the file: many have two of these, some none"""
TIMES = 8
"""how often each tensor may be registered: a layer may be replaced by another while a network is
built, or be given a parametrization, and a network that can't be built without numbers is built
twice"""
BUFFERED = 2**25
"""numbers that buffers may have beside the file's, indices of positions, say"""

Tensors = Mapping[str, Stored]


class TooLargeError(OvertoneError):
    """Settings that ask for a larger module than the file holds weights for."""


@contextmanager
def within(given: Tensors, where: str) -> Iterator[None]:
    """Raises `TooLargeError` from the building of modules that have more parameters, or more
    numbers in them, than the tensors of a file."""
    most = {
        "modules": MODULES_PER_TENSOR * (len(given) + 10),
        "parameters": TIMES * (len(given) + 10),
        "numbers": TIMES * sum(math.prod(stored.shape) for stored in given.values()) + 2**16,
    }
    most["buffered"] = most["numbers"] + BUFFERED
    found: Counter[str] = Counter()

    def add(what: str, count: int) -> None:
        found[what] += count
        if found[what] > most[what]:
            raise TooLargeError(
                f"{where}: its settings ask for a larger network than the weights beside them are"
                f" of ({len(given):,} tensors): they do not belong together."
            )

    def parameter(_module: Any, _name: str, tensor: Tensor | None) -> None:
        if tensor is not None:
            add("parameters", 1)
            add("numbers", tensor.numel())

    def buffer(_module: Any, _name: str, tensor: Tensor | None) -> None:
        if tensor is not None:
            add("buffered", tensor.numel())

    def submodule(_module: Any, _name: str, _submodule: Any) -> None:
        add("modules", 1)

    with ExitStack() as watched:
        for handle in (
            hooks.register_module_parameter_registration_hook(parameter),
            hooks.register_module_buffer_registration_hook(buffer),
            hooks.register_module_module_registration_hook(submodule),
        ):
            watched.callback(handle.remove)
        yield


def stored(state: Mapping[str, Tensor]) -> Tensors:
    """What a file of a state dictionary would say of its tensors."""
    return {
        name: Stored(tuple(tensor.shape), tensor.is_floating_point())
        for name, tensor in state.items()
    }


def check_tensors(own: Mapping[str, Tensor], given: Tensors, name: str, where: str) -> None:
    """Raises `OvertoneError` if tensors in a file are not those of a module called `name`."""
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or extra:
        raise OvertoneError(
            f"{where}: the weights are not those of this {name}:"
            f" {len(missing)} tensors missing {missing[:2]}, {len(extra)} unknown {extra[:2]}."
        )
    for key, stored in given.items():
        wanted = tuple(own[key].shape)
        if stored.shape != wanted:
            raise OvertoneError(
                f"{where}: tensor '{key}' is {stored.shape}, config.json asks for {wanted}."
            )
    check_floats(own, given, where)


def check_floats(own: Mapping[str, Tensor], given: Tensors, where: str) -> None:
    """Raises `OvertoneError` for whole numbers in the place of floats: quantised weights, say,
    which mean something else."""
    for key, stored in given.items():
        if key in own and own[key].is_floating_point() and not stored.floating:
            raise OvertoneError(f"{where}: tensor '{key}' holds whole numbers, not floats.")


def check_numbers(weights: Mapping[str, Tensor], where: str) -> None:
    """Raises `OvertoneError` for weights with NaN or infinity among them, as a training leaves
    that has failed."""
    for key, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise OvertoneError(
                f"{where}: tensor '{key}' holds NaN or infinity: the weights are of a training that"
                " failed, or damaged."
            )
