"""What a GPU makes of Overtone: one command, no arguments, no network, at most eight minutes.

    python benchmarks/gpu.py

Needed: Overtone with its dependencies and benchmarks/ (a checkout and `pip install .`), PyTorch
2.11 or newer with CUDA, as wheels, and an NVIDIA card; compiled variants also need a C compiler.
Nothing is downloaded. In the order of their value:

    correctness   every kind of network, denoiser, pipeline and training step on the card against
                  the same on the CPU, in float32 and bfloat16; noise of seeds and a resumed run,
                  bit for bit; a resumed run on the fastest algorithms
    speed         training and sampling of diffit-cifar10, relay-celebahq (second stage),
                  diffit-latent-imagenet256 and meme-celeba64: eager and compiled, channels last and
                  contiguous, position bias learned, in three ways, and detached; FLOP, share of
                  the measured peak, memory
    training      diffit-fashion-mnist for what is left of the time (diffit-digits where
                  dataset-fashion-mnist is not installed)

Each case is written as it ends: benchmarks/results/CARD.json, a table beside it in CARD.md, and the
trained weights in CARD-model/. What does not fit into the time or the memory is said there, and the
rest goes on. Without a GPU the same cases run on the CPU, on small networks.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS is not deterministic

import torch

SECONDS = 480.0
CORRECTNESS = 180.0  # at most, of those
SPARE = 20.0  # for what is written at the end

Case = tuple[str, Callable[[], dict[str, Any]]]
"""a name, and what measures it"""


class Results:
    """The lines of all cases, in files that are whole after each of them."""

    def __init__(self, folder: Path, machine: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9]+", "-", str(machine["machine"])).strip("-").lower()
        self.file, self.model = folder / f"{name}.json", folder / f"{name}-model"
        self.machine = machine
        self.lines: list[dict[str, Any]] = []
        self.began = time.monotonic()

    def add(self, group: str, case: str, found: dict[str, Any]) -> None:
        line = {"group": group, "case": case, "at": round(time.monotonic() - self.began, 1)} | found
        self.lines.append(line)
        print(json.dumps(line), flush=True)
        whole = {"machine": self.machine, "cases": self.lines}
        _write(self.file, json.dumps(whole, indent=1) + "\n")
        _write(self.file.with_suffix(".md"), self.table())

    def table(self) -> str:
        """The lines for readers."""
        rows = [f"# {self.machine['machine']}, torch {self.machine['torch']}", ""]
        rows += ["| group | case | result |", "|---|---|---|"]
        for line in self.lines:
            more = {k: v for k, v in line.items() if k not in ("group", "case", "at")}
            said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in more.items())
            rows.append(f"| {line['group']} | {line['case']} | {said.replace('|', '/')} |")
        return "\n".join(rows) + "\n"

    @property
    def wrong(self) -> list[str]:
        """Cases that came out otherwise than on the CPU, or failed."""
        return [x["case"] for x in self.lines if x.get("ok") is False or "failed" in x]


def _write(file: Path, text: str) -> None:
    part = file.with_name(f"{file.name}.part")
    part.write_text(text)
    part.replace(file)


class Clock:
    """How much of the time is left."""

    def __init__(self, seconds: float) -> None:
        self.began, self.seconds = time.monotonic(), seconds

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)

    def end_hard(self) -> None:
        """Leave the process when the time is over, whatever a compiler or a kernel does then: all
        that is done is written."""

        def end() -> None:
            print("the time is over: what was under way is left out", file=sys.stderr, flush=True)
            os._exit(0)

        timer = threading.Timer(max(self.left, 0.0), end)
        timer.daemon = True
        timer.start()


def tried(results: Results, group: str, case: Case) -> None:
    """Run a case; whatever goes wrong in it is its result."""
    name, measure = case
    try:
        results.add(group, name, measure())
    except torch.OutOfMemoryError as error:
        first = str(error).splitlines()[0]
        results.add(group, name, {"skipped": f"the memory is too small: {first}"})
    except Exception as error:  # the other cases are worth the time all the same
        traceback.print_exc()
        first = (str(error).splitlines() or [""])[0]
        results.add(group, name, {"failed": f"{type(error).__name__}: {first}"})
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def through(
    results: Results, group: str, cases: Iterator[Case], clock: Clock, until: float
) -> None:
    """The cases of a group, until so many seconds are left."""
    for case in cases:
        if clock.left < until:
            results.add(group, case[0], {"skipped": "no time was left for it"})
            continue
        tried(results, group, case)


def device_here() -> torch.device:
    """The card, or the CPU where there is none, which is said with the reason."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    for warning in told:  # a driver that is too old, say
        print(f"CUDA: {' '.join(str(warning.message).split())}", file=sys.stderr)
    if not there:
        how = "this PyTorch is built without CUDA" if torch.version.cuda is None else "no card"
        print(f"no GPU is used ({how}): the cases run on the CPU, on small networks",
              file=sys.stderr)  # fmt: skip
        return torch.device("cpu")
    if tuple(int(n) for n in torch.__version__.split(".")[:2]) < (2, 11):
        print(f"PyTorch {torch.__version__} is older than 2.11: some cases may fail",
              file=sys.stderr)  # fmt: skip
    return torch.device("cuda")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="Everything ends after this many seconds."
    )
    parser.add_argument(
        "--training-seconds", type=float, default=SECONDS,
        help="The training takes at most this many of them.",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results",
        help="The results are written into this directory.",
    )  # fmt: skip
    options = parser.parse_args()
    for name in ("seconds", "training_seconds"):
        if not 0 < getattr(options, name) <= 86_400:
            parser.error(f"--{name.replace('_', '-')} must be above 0 and at most 86400 (a day)")
    clock = Clock(options.seconds)
    device = device_here()

    import gpu_correctness
    import gpu_speed

    from overtone.bench import machine

    # A multiple of TF32's rounding would hide a wrong kernel.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    facts = machine.facts() | {"device": device.type, "cuda": torch.version.cuda}
    if device.type == "cuda":
        facts["memory_GiB"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    results = Results(options.out, facts)
    clock.end_hard()
    share = options.seconds / SECONDS
    for group, cases, until in (
        ("correctness", gpu_correctness.cases(device), (SECONDS - CORRECTNESS) * share),
        ("speed", gpu_speed.cases(device, clock), 100 * share),
    ):
        through(results, group, cases, clock, until)
    spare = SPARE * share

    def training() -> dict[str, Any]:
        return trained(results, min(clock.left - spare, options.training_seconds))

    through(results, "training", iter([("what is left", training)]), clock, spare)
    wrong = results.wrong
    print(f"{len(results.lines)} cases, {len(wrong)} wrong{': ' if wrong else ''}{', '.join(wrong)}"
          f"; {results.file}")  # fmt: skip
    return int(bool(wrong))


def trained(results: Results, seconds: float) -> dict[str, Any]:
    """A recipe trained for so many seconds, its weights in half precision beside the results."""
    import shutil
    import tempfile

    from overtone import OvertoneError, find_recipe, load_pipeline
    from overtone.errors import RunInterruptedError
    from overtone.training import Reporting
    from overtone.training.loop import Trainer
    from overtone.training.rehearsal import rehearse

    name = "diffit-fashion-mnist"
    recipe: Any = find_recipe(name)
    try:
        trainer = Trainer.of(recipe, show=False)
    except OvertoneError as error:
        print(f"{error} diffit-digits is trained instead", file=sys.stderr)
        name = "diffit-digits"
        recipe = find_recipe(name)
        trainer = Trainer.of(recipe, show=False)
    rate = rehearse(trainer).images_per_second
    batch = recipe.training.batch_size
    images = max(int(0.8 * rate * seconds) // batch, 4) * batch
    plan = dataclasses.replace(
        recipe.training,
        total_images=images,
        lr_rampup_images=min(recipe.training.lr_rampup_images, images // 10),
        ema_halflife_images=min(recipe.training.ema_halflife_images, max(images // 20, 1)),
    )
    reporting = Reporting(report_images=images, checkpoint_images=images, held_out_images=512)
    recipe = dataclasses.replace(recipe, training=plan, reporting=reporting)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        began = time.monotonic()
        trainer = Trainer.of(recipe, show=False)
        stop = threading.Timer(seconds, lambda: setattr(trainer, "stop_asked", True))
        stop.daemon = True
        stop.start()
        with contextlib.suppress(RunInterruptedError):  # the time is over, and all is saved
            trainer.run(run)
        stop.cancel()
        progress = trainer.progress
        took = time.monotonic() - began
        pipe = load_pipeline(run)
        shutil.rmtree(results.model, ignore_errors=True)
        pipe.save_pretrained(results.model, dtype="float16")
        shutil.copy(sorted((run / "grids").iterdir())[-1], results.model.with_suffix(".png"))
    return {
        "recipe": name,
        "images": progress.images,
        "images_per_second": round(progress.images / took, 1),
        "held_out_loss": round(progress.best_value, 4),
        "weights": results.model.name,
    }


if __name__ == "__main__":
    sys.exit(main())
