"""Training the experts of a recipe, each by itself, and making one pipeline of them.

A run of experts is a directory with a run in it for each,

    run.json          how many there are, and the noise levels between them
    recipe.json       all settings
    expert-1/         a run: the expert nearest the clean image
    expert-2/         ...
    merged/           the pipeline of all, once all are trained
"""

from __future__ import annotations

import dataclasses
import gc
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from overtone import storage
from overtone.data.names import given_name
from overtone.errors import OvertoneError, RunInterruptedError
from overtone.launch import processes
from overtone.networks.network import build_empty
from overtone.pipelines.load import load_pipeline
from overtone.pipelines.merge import merged
from overtone.pipelines.pipeline import Pipeline
from overtone.runs import (
    MERGED_FOLDER,
    RUN_FILE,
    checkpoints_of,
    find_checkpoint,
)
from overtone.training.configs.denoising import DenoisingRecipe
from overtone.training.denoising import network_of
from overtone.training.loop import Trainer
from overtone.training.material import Given, Material, encoded, material_of
from overtone.training.several import claim_runs

Started = Callable[[Trainer, str], None]
"""told of each model that begins to train, and what it is called"""


def expert_folder(run: Path, number: int) -> Path:
    """The run of an expert, counted from 1, within the run of all."""
    return run / f"expert-{number}"


def train_experts(
    recipe: DenoisingRecipe,
    run: Path,
    only: int | None = None,
    started: Started = lambda trainer, name: None,
    *,
    given: Given | None = None,
    show: bool = True,
    skip_bad: bool = False,
) -> list[int]:
    """Train all experts of a recipe, one after another, or those of this process's share where
    there are several; or the one that is asked for. `started` is told of each.

    An expert that fails does not keep the others from being trained: at the end `OvertoneError`
    names those that did. Returns the numbers that are trained to the end.
    """
    experts = recipe.experts
    assert experts is not None
    among, numbers = processes(), range(1, experts.count + 1)
    if only is not None and only not in numbers:
        raise OvertoneError(f"--expert is 1 to {experts.count}, not {only}.")
    if only is not None and among.count > 1:
        raise OvertoneError(
            "--expert trains in one process: start it without a launcher, or leave --expert out."
        )
    material = shared_material(recipe, given, show=show)
    if given is not None:
        recipe = dataclasses.replace(recipe, data=given_name(material.data.name))
    if among.is_main:
        facts = {"experts": experts.count, "boundaries": list(experts.boundaries)}
        claim_runs(run, recipe, facts, "expert-")
    among.wait()
    if among.is_main and len(finished_experts(run, recipe)) < experts.count:
        shutil.rmtree(run / MERGED_FOLDER, ignore_errors=True)  # of fewer images than there will be
    failed: list[str] = []
    for number in among.share(numbers) if only is None else [only]:
        try:
            _train(recipe, run, number, material, started, show, skip_bad)
        except RunInterruptedError:
            raise
        except Exception as error:  # whatever it is, the others go on
            ours = isinstance(error, OvertoneError)
            said = str(error).rstrip(".") if ours else f"{type(error).__name__}: {error}"
            failed.append(f"expert {number}: {said}")
            if show:
                print(f"overtone: expert {number} stopped: {said}", file=sys.stderr)
            if not ours or os.environ.get("OVERTONE_DEBUG"):
                traceback.print_exc()
        gc.collect()  # a trainer and what it closes over hold each other
    if among.any(bool(failed)):  # which waits for the others
        said = "; ".join(failed) or "one of another process"
        raise OvertoneError(
            f"not all experts were trained ({said}). Fix that and give the same command again: it"
            " goes on where they stopped."
        )
    return finished_experts(run, recipe)


def train_and_merge(
    recipe: DenoisingRecipe,
    run: Path,
    only: int | None = None,
    started: Started = lambda trainer, name: None,
    *,
    given: Given | None = None,
    show: bool = True,
    skip_bad: bool = False,
) -> list[int]:
    """`train_experts`, and once all are trained one pipeline of them in `merged`. Returns the
    numbers of the experts that are still to be trained."""
    count = recipe.num_experts
    before = latest_of_experts(run, count)
    trained = train_experts(recipe, run, only, started, given=given, show=show, skip_bad=skip_bad)
    missing = [n for n in range(1, count + 1) if n not in trained]
    folder = run / MERGED_FOLDER
    # What was merged by hand stays, but for experts that have gone on since.
    stale = not folder.is_dir() or latest_of_experts(run, count) != before
    if processes().is_main and not missing and stale:
        merged_run(run).save_pretrained(folder)
    return missing


def shared_material(
    recipe: DenoisingRecipe, given: Given | None = None, *, show: bool = True
) -> Material:
    """What all experts are trained on, once it is seen that they can be. Every process of a job has
    to call it."""
    material = material_of(recipe, given, show=show)
    _check(recipe, material.data.num_classes)
    if material.vae is not None:
        images = encoded(recipe, material.vae, material.data, material.held_out, show=show)
        material = Material(*images, material.vae)
    return material


def _train(
    recipe: DenoisingRecipe,
    run: Path,
    number: int,
    material: Material,
    started: Started,
    show: bool,
    skip_bad: bool,
) -> None:
    assert recipe.experts is not None
    out = expert_folder(run, number)
    trainer = Trainer.of(recipe, number, out=out, show=show, material=material)
    started(trainer, f"expert {number} of {recipe.experts.count}")
    trainer.run(out, skip_bad=skip_bad)


def _check(recipe: DenoisingRecipe, data_classes: int) -> None:
    """What can't be trained or merged is told of now, not hours later."""
    experts = recipe.experts
    assert experts is not None
    num_classes = data_classes if recipe.class_conditional else 0
    for number in range(1, experts.count + 1):
        own = dataclasses.replace(recipe, network=recipe.expert(number).network, experts=None)
        config = network_of(own, num_classes)
        network = build_empty(config, f"network settings of expert {number}")
        if recipe.training.gradient_checkpointing and not network.repeated_blocks():
            raise OvertoneError(
                f"--gradient-checkpointing is for transformers, and expert {number} is a"
                f" {config.kind}."
            )


def finished_experts(run: Path, recipe: DenoisingRecipe) -> list[int]:
    """The experts that have seen all of their images."""
    assert recipe.experts is not None
    total, found = recipe.training.total_images, []
    for number in range(1, recipe.experts.count + 1):
        try:
            checkpoint = find_checkpoint(expert_folder(run, number))
        except OvertoneError:
            continue
        found += [number] if int(checkpoint.name) >= total else []
    return found


def is_run_of_experts(run: Path) -> bool:
    return (run / RUN_FILE).exists() and "boundaries" in storage.read_json(run / RUN_FILE, dict)


def latest_of_experts(run: Path, count: int) -> list[str]:
    """The last checkpoint of each expert of a run, "" where there is none."""
    every = (checkpoints_of(expert_folder(run, number)) for number in range(1, count + 1))
    return [checkpoints[-1].name if checkpoints else "" for checkpoints in every]


def merged_run(run: Path, which: str = "last") -> Pipeline:
    """One pipeline of the experts in a run, of their last or best checkpoints.

    Raises `OvertoneError` where one has none yet.
    """
    if not is_run_of_experts(run):
        raise OvertoneError(f"{run} is not a run of experts.")
    boundaries = [float(b) for b in storage.read_json(run / RUN_FILE)["boundaries"]]
    folders = [expert_folder(run, number) for number in range(1, len(boundaries) + 2)]
    missing = [
        str(number)
        for number, folder in enumerate(folders, 1)
        if not any(int(checkpoint.name) for checkpoint in checkpoints_of(folder))
    ]
    if missing:
        raise OvertoneError(
            f"{run} lacks expert {', '.join(missing)}: overtone train ... --expert {missing[0]}."
        )
    pipes = [load_pipeline(find_checkpoint(folder, which)) for folder in folders]
    return merged(pipes, boundaries)
