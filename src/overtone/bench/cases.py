"""All cases, by name."""

from __future__ import annotations

from functools import partial

from overtone.bench.commands import end_to_end, memory, start_up
from overtone.bench.compare import Case, networks
from overtone.bench.growth import growth
from overtone.bench.limit import share_of_the_peak
from overtone.bench.operators import operators
from overtone.bench.samplers import samplers
from overtone.bench.systems import systems

CASES: dict[str, Case] = {
    "unet": partial(networks, "unet", "multiply-adds"),
    "unet-parameters": partial(networks, "unet", "parameters"),
    "transformer": partial(networks, "transformer", "multiply-adds"),
    "transformer-parameters": partial(networks, "transformer", "parameters"),
    "operators": operators,
    "samplers": samplers,
    "systems": systems,
    "peak": share_of_the_peak,
    "end-to-end": end_to_end,
    "start-up": start_up,
    "memory": memory,
    "growth": growth,
}
