"""A process that measures, with the peers' folders on its path: `python -m overtone.bench.worker`.

CASE --peers ... --batches ... --seconds ...    a case, a JSON line for each result
--alone PEER WIDTH MODE BATCH                   one step of a U-Net, for its memory
--train FILE IMAGES                             a run on some images, for its memory
--rate FILE SECONDS                             the images a second of all processes together
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence

import torch


def main(arguments: Sequence[str]) -> None:
    kinds: dict[str, Callable[..., None]] = {"--alone": alone, "--train": train, "--rate": rate}
    if arguments[0] in kinds:
        kinds[arguments[0]](*arguments[1:])
    else:
        case(*arguments)


def case(name: str, peers: str, batches: str, seconds: str) -> None:
    """Peers and batches are separated by commas."""
    from overtone.bench.cases import CASES
    from overtone.bench.compare import Asked

    named = [peer for peer in peers.split(",") if peer]
    asked = Asked(named, [int(batch) for batch in batches.split(",")], float(seconds))
    torch.manual_seed(0)
    for line in CASES[name](asked):
        print(json.dumps(line), flush=True)


def alone(peer: str, width: str, mode: str, batch: str) -> None:
    from overtone.bench.compare import OWN
    from overtone.bench.families import IMAGES, UNETS
    from overtone.bench.subjects import Subject

    layout = torch.channels_last if peer == OWN else torch.contiguous_format
    subject = Subject(UNETS[peer], int(width), layout=layout, fused=peer == OWN)
    x, time = torch.randn(int(batch), *IMAGES), torch.rand(int(batch)) * 0.9 + 0.05
    for _ in range(2):
        getattr(subject, mode)(x.to(subject.device), time.to(subject.device))


def train(file: str, images: str) -> None:
    import tempfile
    from pathlib import Path

    from overtone.bench.growth import recipe_of
    from overtone.training.loop import Trainer

    with tempfile.TemporaryDirectory() as folder:
        Trainer.of(recipe_of(Path(file), int(images)), show=False).run(Path(folder) / "run")


def rate(file: str, seconds: str) -> None:
    from pathlib import Path

    from overtone.bench.growth import recipe_of
    from overtone.launch import finish
    from overtone.training.loop import Trainer

    trainer = Trainer.of(recipe_of(Path(file), 10**9), show=False)
    model, batches = trainer.prepared(), trainer.batches(0)
    size = trainer.training.batch_size
    trainer.step(model, next(batches))
    count, began = 0, time.perf_counter()
    while not trainer.processes.any(time.perf_counter() - began > float(seconds)):
        trainer.step(model, next(batches))
        count += size
    taken = time.perf_counter() - began
    if trainer.processes.is_main:
        print(json.dumps(count / taken), flush=True)
    finish()


if __name__ == "__main__":
    main(sys.argv[1:])
