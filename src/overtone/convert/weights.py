"""Weights in files as people have them: safetensors or what torch.save wrote, in half precision,
under the prefixes of whatever trained them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from overtone import storage
from overtone.convert.pickle_machine import Record
from overtone.convert.unpickle import read_checkpoint, state_of
from overtone.errors import OvertoneError
from overtone.filekind import is_safetensors
from overtone.networks.bounds import check_numbers
from overtone.regular import open_regular

PLACES = (
    *("ema", "ema_state_dict", "model_ema", "params_ema", "ema_model"),
    *("state_dict", "model", "model_state_dict", "params", "network", "net"),
)
"""where checkpoints keep weights, averaged ones first"""
OF_AVERAGES = ("ema.", "ema_model.", "model_ema.")
PREFIXES = (
    *OF_AVERAGES,
    *("module.", "_orig_mod.", "_fsdp_wrapped_module.", "model.", "network.", "net."),
    *("diffusion_model.", "transformer."),
)
"""what data parallelism, torch.compile, FSDP, Lightning and averages put before names"""
COUNTERS = ("n_averaged", "decay", "num_updates", "step", "initted")
"""numbers that averages keep beside the weights"""


class Weights(NamedTuple):
    """Tensors by name, and what was done to have them so."""

    state: dict[str, Tensor]
    notes: list[str]


def read_weights(file: Path) -> Weights:
    """The state dictionary in a file, without prefixes that all its names have.

    Raises `OvertoneError` for a file that holds none, for weights that are not finite, and, through
    `overtone.convert.unpickle`, for pickles that want more than tensors made.
    """
    try:
        with open_regular(file) as opened:
            first = opened.read(9)
    except OSError as error:
        raise OvertoneError(f"{file} can't be read ({error.strerror}).") from None
    notes: list[str] = []
    if is_safetensors(first) or file.suffix == ".safetensors":
        state = storage.load_tensors(file)
    else:
        state = _tensors_in(read_checkpoint(file), file, notes)
    state = _of_averages(state, notes)
    state = without_prefixes(state, notes)
    check_numbers(state, str(file))
    half = sorted({str(t.dtype).removeprefix("torch.") for t in state.values() if t.itemsize == 2})
    if half:
        notes.append(f"weights of {', '.join(half)} are kept as float32")
    return Weights(state, notes)


def _tensors_in(data: Any, file: Path, notes: list[str]) -> dict[str, Tensor]:
    for _ in range(4):  # a module in a place in a checkpoint
        if isinstance(data, Record):
            return state_of(data)
        if not isinstance(data, dict):
            break
        state = {str(name): value for name, value in data.items() if isinstance(value, Tensor)}
        place = next((name for name in PLACES if _holds(data.get(name))), None)
        if state and place is None:
            return state
        if place is None:
            break
        notes.append(f"taken from '{place}'")
        data = data[place]
    raise OvertoneError(f"{file} holds no weights: neither tensors by name, nor a module.")


def _holds(value: Any) -> bool:
    return isinstance(value, Record) or (isinstance(value, dict) and bool(value))


def _of_averages(state: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """The averaged weights, where those of the last step lie beside them."""
    for prefix in OF_AVERAGES:
        averaged = {name: tensor for name, tensor in state.items() if name.startswith(prefix)}
        if averaged and len(averaged) < len(state) <= 2 * len(averaged) + len(COUNTERS):
            left = len(state) - len(averaged)
            notes.append(f"the averaged weights are taken, and {left} other tensors left")
            return averaged
    return state


def without_prefixes(state: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """The tensors without prefixes that all of them have, and without the counters of averages."""
    kept = dict(state)
    numbers = (name for name, tensor in state.items() if tensor.numel() == 1 and len(state) > 1)
    counters = [name for name in numbers if name.rpartition(".")[2] in COUNTERS]
    for name in counters:
        del kept[name]
    if counters:
        notes.append(f"left out, as no weights: {', '.join(counters)}")
    while kept:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in kept)), None)
        if prefix is None:
            return kept
        notes.append(f"'{prefix}' is left off the names of tensors")
        kept = {name.removeprefix(prefix): tensor for name, tensor in kept.items()}
    return kept
