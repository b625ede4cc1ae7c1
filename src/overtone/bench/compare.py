"""Networks of Overtone beside its peers', of equal size; and what all cases share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch

from overtone.bench.families import FAMILIES
from overtone.bench.subjects import Equal, Subject, nearest, size_of
from overtone.bench.turns import Turns, in_turns
from overtone.errors import is_out_of_memory
from overtone.registry import said

OWN = "overtone"
README = "as its documentation runs it"
"""in float32 and channels-first, Adam as torch makes it"""

Line = dict[str, Any]
"""a result: the case's name, and numbers or the reason for having none"""


@dataclass(frozen=True)
class Asked:
    """What a case is asked for."""

    peers: Sequence[str] = ()
    batches: Sequence[int] = (1, 16, 64)
    seconds: float = 10.0
    """The seconds that the slowest of the subjects takes."""


Case = Callable[[Asked], Iterator[Line]]


def networks(kind: str, equal: Equal, asked: Asked) -> Iterator[Line]:
    """A kind of network in training and in sampling, by batch."""
    shape, width, families = FAMILIES[kind]
    own = Subject(families[OWN], width, layout=torch.channels_last, fused=True)
    size = size_of(families[OWN], width, shape, equal)
    subjects, sizes, failed = {OWN: own}, dict[str, float](), dict[str, str]()
    for name in asked.peers:
        if name not in families:
            continue
        try:
            chosen = nearest(families[name], shape, equal, size)
            sizes[name] = size_of(families[name], chosen, shape, equal) / size
            subjects[name] = Subject(families[name], chosen)
            subjects[f"{name}, {README}"] = Subject(families[name], chosen, precision="fp32")
        except Exception as error:  # whatever a peer raises: the others are measured
            failed[name] = said(error)
    # The smallest batch first: where the system ends a process that takes too much memory, what was
    # measured before is there.
    for batch, mode in product(sorted(asked.batches), ("sampling", "training")):
        line = {"case": f"{kind} {mode}, equal {equal}, batch {batch}"}
        try:
            turns = _measured(subjects, mode, (batch, *shape), asked.seconds)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            yield line | {"skipped": "the memory is too small for this batch"}
            continue
        told = {"failed": failed} if failed else {}
        yield line | against(turns, sizes, batch) | told


def _measured(
    subjects: Mapping[str, Subject], mode: str, shape: tuple[int, ...], seconds: float
) -> Turns:
    device = subjects[OWN].device
    x, time = torch.randn(shape, device=device), torch.linspace(0.05, 0.95, shape[0]).to(device)
    return in_turns(
        {name: partial(getattr(subject, mode), x, time) for name, subject in subjects.items()},
        seconds,
    )


def against(turns: Turns, sizes: Mapping[str, float], batch: int = 1) -> Line:
    """Rates, and how many times as fast Overtone is as each other: as measured, with the quartiles
    of the rounds, and as it were at exactly the same size."""
    over = {}
    for name in turns.seconds:
        if name != OWN:
            ratio, low, high = turns.ratio(OWN, name)
            size = sizes.get(name.partition(",")[0])
            equal = (
                {}
                if size is None
                else {"size": round(size, 3), "at_equal_size": _short(ratio / size)}
            )
            over[name] = {"ratio": _short(ratio), "quartiles": [_short(low), _short(high)]} | equal
    rates = {name: _short(batch / turns.median(name)) for name in turns.seconds}
    return {"per_second": rates, "over": over}


def _short(number: float) -> float:
    return float(f"{number:.4g}")
