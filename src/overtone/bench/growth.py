"""What grows with the data and with the processes, and what must not: images a second and memory at
1,000 and at 50,000 images, two processes against one, a million entries on the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from overtone.bench.commands import once
from overtone.bench.compare import Asked, Line
from overtone.bench.turns import in_turns

COUNTS = (1_000, 50_000)
ENTRIES = 1_000_000
SIDE, BATCH = 32, 16
READ = 4096
"""entries of a read"""


def growth(asked: Asked) -> Iterator[Line]:
    """All of them."""
    with tempfile.TemporaryDirectory() as folder:
        yield from by_images(asked, Path(folder))
        yield from by_processes(asked, Path(folder))
        yield from by_entries(asked, Path(folder))


def images_file(folder: Path, count: int) -> Path:
    """A file of random images in one array."""
    from overtone.data.batches import write_batch

    file = folder / f"{count}.npz"
    if not file.exists():
        generator = torch.Generator().manual_seed(0)
        shape = 3, SIDE, SIDE
        sizes = [min(1000, count - at) for at in range(0, count, 1000)]
        parts = (
            torch.randint(256, (n, *shape), generator=generator, dtype=torch.uint8) for n in sizes
        )
        write_batch(file, ((part, None) for part in parts), count)
    return file


def recipe_of(file: Path, images: int) -> Any:
    """A small network on a file of images, and no checkpoint but the first and the last."""
    from overtone.networks import ADMConfig
    from overtone.training import DenoisingRecipe, Reporting, Training

    network = ADMConfig(
        resolution=SIDE, channels=3, widths=(32, 32, 32), num_cells=1, attention_resolutions=(16,),
        head_channels=32, dropout=0.0,
    )  # fmt: skip
    return DenoisingRecipe(
        about="",
        data=str(file),
        network=network,
        training=Training(total_images=images, batch_size=BATCH),
        reporting=Reporting(report_images=images, checkpoint_images=images, held_out_images=BATCH),
    )


def by_images(asked: Asked, folder: Path) -> Iterator[Line]:
    """A step of training with its data, by the number of images; memory in other processes."""
    from overtone.training.loop import Trainer

    tasks = {}
    for count in COUNTS:
        trainer = Trainer.of(recipe_of(images_file(folder, count), 10**9), show=False)
        model, batches = trainer.prepared(), trainer.batches(0)
        tasks[f"{count:,}"] = partial(_step, trainer, model, batches)
    turns = in_turns(tasks, asked.seconds)
    memory = {}
    for count in COUNTS:
        command = [sys.executable, "-m", "overtone.bench.worker", "--train",
                   str(images_file(folder, count)), str(20 * BATCH)]  # fmt: skip
        memory[f"{count:,}"] = round(once(command)[2] / 2**20)
    few, many = (f"{count:,}" for count in COUNTS)
    yield {
        "case": f"growth, training on {few} and on {many} images",
        "per_second": {name: float(f"{BATCH / turns.median(name):.4g}") for name in tasks},
        "rate_of_many": round(turns.ratio(many, few)[0], 3),
        "MiB": memory,
        "memory_of_many": round(memory[many] / memory[few], 3),
    }


def _step(trainer: Any, model: Any, batches: Any) -> None:
    trainer.step(model, next(batches))


def by_processes(asked: Asked, folder: Path) -> Iterator[Line]:
    """Images a second of two processes of one core each, and of one, in turns."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    file = images_file(folder, COUNTS[0])
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(3):
        for count in rates:
            command = [
                sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc-per-node", str(count), "-m", "overtone.bench.worker", "--rate", str(file),
                str(max(2.0, asked.seconds)),
            ]  # fmt: skip
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            )
            rates[count].append(float(json.loads(done.stdout.splitlines()[-1])))
    one, two = (sorted(found)[1] for found in rates.values())
    yield {
        "case": "growth, two processes of one core each",
        "per_second": {"1": round(one, 2), "2": round(two, 2)},
        "over_one": round(two / one, 3),
    }


def by_entries(asked: Asked, folder: Path) -> Iterator[Line]:
    """A million latents read in a random order, against the same bytes read by the system."""
    from overtone.data.latents import LatentData

    data = LatentData(latents_folder(folder / "latents", ENTRIES))
    generator = torch.Generator().manual_seed(1)
    row = data.fetch([0])[0][0].numel() * 2
    files = sorted((folder / "latents").glob("*.safetensors"))
    opened = [np.memmap(file, np.uint8, "r") for file in files]

    def own() -> None:
        data.fetch(torch.randint(len(data), (READ,), generator=generator).tolist())

    def plain() -> None:
        """The rows where they lie, by the operating system alone."""
        kept = np.empty((READ, row), np.uint8)
        for place, index in enumerate(
            torch.randint(len(data), (READ,), generator=generator).tolist()
        ):
            file, at = divmod(index, 1024)
            kept[place] = opened[file][at * row : (at + 1) * row]

    turns = in_turns({"overtone": own, "the system": plain}, asked.seconds)
    yield {
        "case": f"growth, latents among {ENTRIES:,}, {row} bytes each",
        "MB_per_second": {
            name: round(READ * row / turns.median(name) / 1e6, 1) for name in turns.seconds
        },
        "over_the_system": round(turns.ratio("overtone", "the system")[0], 3),
    }


def latents_folder(folder: Path, count: int, side: int = 8) -> Path:
    """Latents of 4 x 8 x 8, random, in as many files as there would be."""
    from overtone import settings, storage
    from overtone.data.latents import INDEX_FILE, LatentsIndex, shards_of

    index = LatentsIndex(
        images="random", image_fingerprint="0", image_resolution=8 * side, image_channels=3,
        count=count, mirrored=False, vae="0", resolution=side, channels=4, scaling_factor=0.18,
        shift_factor=0.0,
    )  # fmt: skip
    folder.mkdir()
    storage.write_json(folder / INDEX_FILE, settings.dump(index))
    shards = shards_of(folder, index)
    moments = torch.rand(index.block, 8, side, side).half()
    for number in range(len(shards)):
        rows = len(shards.rows(number))
        labels = torch.zeros(rows, dtype=torch.int64)
        shards.write(number, {"moments": moments[:rows], "labels": labels})
    return folder
