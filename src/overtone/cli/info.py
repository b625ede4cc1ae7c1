"""`overtone info DIR` shows what a directory holds, from its files and without running anything."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from overtone import storage
from overtone.cli.options import parse
from overtone.errors import OvertoneError, plain


@dataclass(frozen=True)
class Options:
    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIRECTORY")]
    """The directory of a run, a saved pipeline, network or VAE, latents or trajectories, or a
    repository of the Hub."""
    json: bool = False
    """Print JSON instead of a table."""
    curve: Path | None = None
    """A .png file into which the losses and scores of a run are drawn."""


def main(arguments: Sequence[str]) -> None:
    options = parse(Options, "info", __doc__, arguments)
    folder = storage.locate(options.path)
    found = describe(folder)
    if options.curve is not None:
        _draw(folder, options.curve)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    from overtone.cli.info_run import GOES_ON

    command = found.pop(GOES_ON, None)
    found = _worded(found)
    tree = Tree(Text(plain(options.path), style="bold"))
    _grow(tree, found)
    Console(highlight=False, markup=False, emoji=False).print(tree)
    if command is not None:  # in one line, as it is to be copied
        print(plain(f"{GOES_ON}: {command}"))


def _worded(found: dict[str, Any]) -> dict[str, Any]:
    """Fitted samplers in a line each; the numbers are in --json."""
    worded = {key: _worded(v) if isinstance(v, dict) else v for key, v in found.items()}
    budgets = worded.pop("budgets", None)
    if isinstance(budgets, list) and budgets:
        worded["fitted samplers"] = dict(map(_fitted, budgets))
    return worded


def _fitted(budget: Any) -> tuple[str, str]:
    from overtone import settings
    from overtone.pipelines.budgets import Budget

    found = settings.load(Budget, budget, "budgets")
    levels = " ".join(f"{level:.3g}" for level in found.own.sampler.visited)
    return (
        f"{found.evaluations} function evaluations",
        f"error {found.error:.4f}, the default's {found.default_error:.4f}; guidance scale"
        f" {found.own.guidance.scale:g}; noise levels {levels}",
    )


def _draw(folder: Path, out: Path) -> None:
    from overtone.cli.info_run import draw_curve
    from overtone.runs import is_run

    if out.suffix.lower() != ".png":
        raise OvertoneError(f"--curve is a .png file, not {out}.")
    if not is_run(folder):
        raise OvertoneError(f"--curve draws what a run has logged, and {folder} is not a run.")
    draw_curve(folder, out)
    print(plain(f"{out}: losses and scores over the images seen"), file=sys.stderr)


def describe(folder: Path) -> dict[str, Any]:
    """What stands in the files of a run, a pipeline, a network, a VAE, latents or trajectories.

    Raises `OvertoneError` for a directory that is none of them.
    """
    if (folder / "run.json").exists():
        return _run(folder)
    if (folder / "pipeline.json").exists():
        return _pipeline(folder)
    if (folder / "model_index.json").exists():
        return _diffusers(folder)
    if (folder / "latents.json").exists():
        return {"kind": "latents"} | storage.read_json(folder / "latents.json", dict)
    if (folder / "trajectories.json").exists():
        return {"kind": "trajectories"} | storage.read_json(folder / "trajectories.json", dict)
    if (folder / "config.json").exists():
        return _network(folder)
    if (folder / "vae" / "config.json").exists():
        return _network(folder / "vae")
    raise OvertoneError(
        f"{folder} holds no run.json, pipeline.json, latents.json, trajectories.json or"
        " config.json: it is neither a run, nor a saved pipeline, nor latents, nor trajectories,"
        " nor a network."
    )


def _run(folder: Path) -> dict[str, Any]:
    from overtone.cli.info_run import run_told
    from overtone.runs import checkpoints_of

    found = run_told(folder)
    if checkpoints := checkpoints_of(folder):
        found["last checkpoint"] = describe(checkpoints[-1])
    return found


def _pipeline(folder: Path) -> dict[str, Any]:
    index = storage.read_json(folder / "pipeline.json", dict)
    index.pop("pipeline", None)  # of version 0.1.0
    return {"kind": "pipeline", **index, "weights": _network(folder / "network")}


def _diffusers(folder: Path) -> dict[str, Any]:
    """A pipeline of diffusers': each part's settings, and its weights where it has any."""
    index = storage.read_json(folder / "model_index.json", dict)
    found: dict[str, Any] = {
        "kind": "diffusers pipeline",
        "class": index.get("_class_name"),
        "diffusers": index.get("_diffusers_version"),
    }
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        scheduler = part / "scheduler_config.json"
        if scheduler.exists():
            found[part.name] = storage.read_json(scheduler, dict)
        elif (part / "config.json").exists():
            found[part.name] = _network(part)
    from overtone.pipelines.foreign import sampler_of

    try:
        sampler_of(folder)
    except OvertoneError as error:
        found["not opened here"] = str(error)
    return found


def _network(folder: Path) -> dict[str, Any]:
    config, file = storage.read_json(folder / "config.json", dict), folder / "model.safetensors"
    if config.get("kind") == "Experts":
        found = {"kind": "Experts", "noise levels between them": config.get("boundaries")}
        networks = config.get("networks")
        numbers = range(1, len(networks) + 1 if isinstance(networks, list) else 1)
        return found | {f"expert {n}": _network(folder / str(n)) for n in numbers}
    files = [file]
    if not file.exists():  # diffusers', whole, sharded, or of some precision
        files = sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
    if not files:
        raise OvertoneError(
            f"{folder} has no weights that are read here: neither {file.name} nor"
            " diffusion_pytorch_model.safetensors."
        )
    shapes = [stored.shape for file in files for stored in storage.stored_tensors(file).values()]
    return {
        "kind": config.pop("kind", None) or config.get("_class_name"),
        "tensors": len(shapes),
        "values": sum(math.prod(shape) for shape in shapes),
        "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 2),
        "config": config,
    }


def _grow(tree: Any, found: dict[str, Any]) -> None:
    """A branch for every value that says something."""
    from rich.text import Text

    for key, value in found.items():
        if isinstance(value, dict) and value:
            _grow(tree.add(Text(plain(str(key)), style="bold")), value)
        elif value not in (None, "", [], {}):
            shown = f"{value:,}" if type(value) is int else str(value)
            shown = ", ".join(map(str, value)) if isinstance(value, list) else shown
            tree.add(Text(plain(f"{key}: {shown}")))
