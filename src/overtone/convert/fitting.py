"""Published weights held against the network of their settings, before it takes any memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from overtone.errors import OvertoneError
from overtone.networks.bounds import check_numbers, check_tensors, stored, within

Rename = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@contextmanager
def without_memory(state: Mapping[str, Tensor], where: str) -> Iterator[None]:
    """Networks that are built here are of tensors without numbers, and not larger than `state`."""
    with within(stored(state), where), torch.device("meta"):
        yield


def check_fits(rename: Rename, state: Mapping[str, Tensor], empty: nn.Module, name: str) -> None:
    """Raises `OvertoneError` if the tensors, renamed, are not those of the module called `name`, or
    hold no numbers. Renaming also joins and turns tensors: it is tried without their numbers."""
    try:
        renamed = rename({key: tensor.to("meta") for key, tensor in state.items()})
    # Names are taken apart as the published code makes them; others fail anywhere in that.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as e:
        raise OvertoneError(f"not the weights of a {name}: {e}") from None
    check_tensors(empty.state_dict(), stored(renamed), name, name)
    check_numbers(state, name)
