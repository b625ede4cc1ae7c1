"""`overtone bench` measures speed and memory on your machine, beside what you would use instead.

    overtone bench
    overtone bench --cases unet --batches 1 16 --peers diffusers

The peers are installed into folders of their own in the cache, never into the environment. What is
compared takes turns in one process, so that the ratios mean more than the rates. Results go into a
JSON file and a table beside it, case by case; a case that is measured again replaces its former
results.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from overtone.cli.options import parse
from overtone.errors import OvertoneError, plain, unknown
from overtone.ranges import Batch, Positive

if TYPE_CHECKING:
    from overtone.bench.compare import Line

CASES = (
    "unet", "unet-parameters", "transformer", "transformer-parameters", "operators", "samplers",
    "systems", "peak", "end-to-end", "start-up", "memory", "growth",
)  # fmt: skip
PEERS = ("diffusers", "denoising-diffusion-pytorch", "smalldiffusion", "azula", "k-diffusion")


@dataclass(frozen=True)
class Options:
    cases: tuple[str, ...] = CASES
    """The cases to measure: networks of equal multiply-adds (unet, transformer) or of equal
    parameters (unet-parameters, transformer-parameters), operators beside their formulas written
    out, samplers, what the systems add to their networks, the share of the machine's peak, the time
    of a whole sampling command (end-to-end), start-up, memory, and growth with the data and
    the processes."""
    peers: tuple[str, ...] = PEERS
    """The libraries to compare with; --peers none leaves all of them out."""
    batches: tuple[Batch, ...] = (1, 16, 64)
    """The batch sizes of networks and of memory."""
    seconds: Positive = 10.0
    """The seconds that each case spends on the slowest of the libraries that take turns."""
    out: Path = Path("bench")
    """The folder that the results go into."""


def main(arguments: Sequence[str]) -> None:
    options = parse(Options, "bench", __doc__, arguments)
    for name in options.cases:
        if name not in CASES:
            raise unknown("case", name, CASES)
    if not options.batches:
        raise OvertoneError("--batches names at least one batch size.")
    names = () if options.peers == ("none",) else options.peers

    from overtone.bench import machine
    from overtone.bench.peers import chosen, installed, paths
    from overtone.bench.report import Report, told

    there: dict[str, Path | None] = {}
    for peer, folder in installed(chosen(names)):
        if folder is None or not isinstance(folder, OvertoneError):
            there[peer.name] = folder
        else:
            print(f"{folder} It is left out.", file=sys.stderr)
    report = Report(options.out, machine.facts(), machine.peaks(min(2.0, options.seconds)))
    environment = os.environ | {"PYTHONPATH": _joined(paths(there), os.environ.get("PYTHONPATH"))}
    for number, name in enumerate(options.cases):
        print(f"{name}, {number + 1} of {len(options.cases)}", file=sys.stderr)
        command = [sys.executable, "-m", "overtone.bench.worker", name, ",".join(there),
                   ",".join(map(str, options.batches)), str(options.seconds)]  # fmt: skip
        for line in _lines(command, environment, name):
            report.add(line)
            print(plain(f"  {line['case']}: {told(line)}".replace("**", "")), flush=True)
    print(f"{report.file}, and a table beside it", file=sys.stderr)


def _joined(*parts: str | None) -> str:
    return os.pathsep.join(part for part in parts if part)


def _lines(command: Sequence[str], environment: dict[str, str], name: str) -> Iterator[Line]:
    """The results of a case, as they come; that it failed is one too."""
    with (
        tempfile.TemporaryFile("w+") as errors,  # a pipe that nobody reads would fill
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        for line in process.stdout or ():
            if line.startswith("{"):
                yield json.loads(line)
        process.wait()
        errors.seek(0)
        told = errors.read().strip().splitlines()
    if process.returncode:
        reason = told[-1] if told else f"it ended with status {process.returncode}"
        if process.returncode == -signal.SIGKILL:
            reason = "the system ended it, as it does where the memory is too small"
        yield {"case": name, "failed": reason}
