"""What the extractors of other libraries have in common: the extra that they need, and weights in
files from elsewhere, of which nothing is executed."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from torch import Tensor

from overtone.errors import OvertoneError

READER = "overtone.convert.weights:read_weights"
"""what reads weights from files. It is in a folder above this one, and is named, not imported."""


def library(module: str, name: str, extra: str, whose: str) -> Any:
    """What a module of an extra's library calls `name`. Raises `OvertoneError`, naming the extra,
    where it is not installed or does not import."""
    try:
        importlib.import_module(module.partition(".")[0])
        return getattr(importlib.import_module(module), name)
    except (ImportError, RuntimeError, AttributeError) as error:
        # RuntimeError: a torchvision whose operators were built for another torch.
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise OvertoneError(
            f"{whose}'s features need an extra: in Overtone's source, pip install -c"
            f" constraints.txt '.[{extra}]' ({reason.rstrip('.')})."
        ) from None


def read_state(file: Path, whose: str, advice: str) -> dict[str, Tensor]:
    """The tensors in a file, safetensors or what torch.save wrote, in memory bounded by its size.
    Raises `OvertoneError`, which ends with `advice`, for a file that holds no weights."""
    try:
        return pkgutil.resolve_name(READER)(Path(file)).state
    except OvertoneError as error:
        said = str(error).rstrip(".")
        reason = said.removeprefix(f"{file}: ").replace(f"{file} ", "it ", 1)
        raise OvertoneError(
            f"{whose}'s weights can't be read from {file} ({reason}): {advice}."
        ) from None
