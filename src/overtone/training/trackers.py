"""TensorBoard and Weights & Biases, through accelerate's trackers, beside the log in the run."""

from __future__ import annotations

import importlib.util
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from overtone import storage
from overtone.errors import OvertoneError
from overtone.training.configs.training import TrackerName


class Trackers:
    """What a run reports to besides its own log; with no names, nothing.

    TensorBoard's files are in the run's directory, in `tensorboard`. Weights & Biases is told by
    its own environment variables (WANDB_MODE=offline, WANDB_ENTITY, ...); a run that is resumed
    goes on as the same one. Steps are counted in images seen.

    Raises `OvertoneError`, naming the extra, for a tracker that is not installed.
    """

    def __init__(
        self, names: Sequence[TrackerName], run: Path, recipe: Mapping[str, Any], images: int
    ) -> None:
        self.trackers: list[Any] = []
        for name in names:
            if importlib.util.find_spec(name) is None:
                raise OvertoneError(
                    f"the tracker {name} is not installed: in Overtone's source,"
                    f" pip install -c constraints.txt '.[{name}]'."
                )
            self.trackers.append(_STARTERS[name](run, recipe, images))

    def log(self, entry: Mapping[str, Any]) -> None:
        """The numbers of a line of the log."""
        values = {k: v for k, v in entry.items() if k not in ("images", "at")}
        for tracker in self.trackers:
            tracker.log(values, step=entry["images"])

    def picture(self, image: Image, images: int) -> None:
        """A grid of samples."""
        pixels = np.asarray(image.convert("RGB"))[None]
        for tracker in self.trackers:
            more = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"samples": pixels}, step=images, **more)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        for tracker in self.trackers:
            tracker.finish()


def _tensorboard(run: Path, recipe: Mapping[str, Any], images: int) -> Any:
    from accelerate.tracking import TensorBoardTracker

    # What came after the checkpoint is about to be written again.
    purge = images + 1 if images else None
    tracker = TensorBoardTracker("tensorboard", run, purge_step=purge)
    tracker.start()
    tracker.log({"recipe": f"```json\n{json.dumps(recipe, indent=2)}\n```"}, step=images)
    return tracker


def _wandb(run: Path, recipe: Mapping[str, Any], images: int) -> Any:
    from accelerate.tracking import WandBTracker

    kept = run / "wandb-id"
    if not kept.exists():
        with storage.new_file(kept) as file:
            file.write_text(uuid.uuid4().hex[:16])
    tracker = WandBTracker(
        os.environ.get("WANDB_PROJECT", "overtone"),
        dir=str(run),
        name=os.environ.get("WANDB_NAME", run.name),
        id=kept.read_text(),
        resume="allow",
    )
    tracker.start()
    tracker.store_init_configuration(dict(recipe))
    return tracker


_STARTERS = {"tensorboard": _tensorboard, "wandb": _wandb}
