"""pipeline.json: the parts of a saved pipeline, as a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from overtone import former, settings, storage
from overtone.denoisers.guidance import GuidanceSettings
from overtone.denoisers.preconditioning import EDMPreconditioning, Preconditioning
from overtone.errors import OvertoneError
from overtone.pipelines.budgets import Budget
from overtone.processes.gaussian import GaussianProcess, Process
from overtone.ranges import check_fields
from overtone.samplers.loop import SamplingLoop
from overtone.sizes import Resolution

INDEX_FILE = "pipeline.json"
NETWORK_FOLDER = "network"
DIFFUSERS_FILE = "model_index.json"
"""A directory with this file is a pipeline of diffusers'."""


@dataclass(frozen=True)
class PipelineIndex:
    """The contents of pipeline.json."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    network: str
    """The kind of the network, whose settings and weights are in network/."""
    sampler: SamplingLoop
    start: dict[str, Any]
    """The start, as `starts.Start` reads it."""
    preconditioning: Preconditioning = field(default_factory=EDMPreconditioning)
    process: Process = field(default_factory=GaussianProcess)
    guidance: GuidanceSettings = field(default_factory=GuidanceSettings)
    """The guidance that is used where nothing else is asked for."""
    image_resolution: Resolution | None = None
    """The height and width of the images that a VAE decodes. None stands for a model of pixels."""
    class_names: tuple[str, ...] = ()
    budgets: tuple[Budget, ...] = ()
    """The samplers fitted to the model, each for a number of function evaluations."""
    data: str = ""
    """The data that the model was trained on, as the recipe names them. Only the last part of a
    path is kept."""
    training: dict[str, int | float | str] = field(default_factory=dict)
    """How the model was trained: images seen, batch size, and so on."""
    license: str = ""
    """The licence of the weights, as the Hub names it."""
    overtone: str = ""
    """The version of Overtone that wrote the file."""

    def __post_init__(self) -> None:
        check_fields(self)


def write_budgets(folder: Path, budgets: tuple[Budget, ...]) -> None:
    """Put the samplers that were fitted to a saved pipeline into its pipeline.json."""
    _changed(folder, "budgets", [settings.dump(budget) for budget in budgets])


def write_guidance(folder: Path, guidance: GuidanceSettings) -> None:
    """Put the guidance that was fitted to a saved pipeline into its pipeline.json."""
    _changed(folder, "guidance", settings.dump(guidance))


def _changed(folder: Path, name: str, value: Any) -> None:
    file = folder / INDEX_FILE
    data = storage.read_json(file, dict)
    if "pipeline" in data:
        raise OvertoneError(
            f"{folder} was saved by a former version: save it again first, overtone fit ... --out"
            " DIRECTORY."
        )
    storage.write_json(file, data | {name: value})


def is_pipeline(folder: Path) -> bool:
    """Whether a directory holds a saved pipeline."""
    return (folder / INDEX_FILE).exists()


def is_diffusers(folder: Path) -> bool:
    """Whether a directory holds a pipeline of diffusers'."""
    return (folder / DIFFUSERS_FILE).exists()


def read_index(folder: Path) -> PipelineIndex:
    """pipeline.json of a directory, of this version or a former one. Nothing else is read, and
    torch is not imported."""
    file = folder / INDEX_FILE
    if not file.exists():
        raise OvertoneError(f"{folder} is not a saved pipeline: it has no {INDEX_FILE}.")
    data = storage.read_json(file, dict)
    if "pipeline" in data:
        config = folder / NETWORK_FOLDER / "config.json"
        data = former.pipeline_index(data, storage.read_json(config) if config.exists() else None)
    return settings.load(PipelineIndex, data, str(file))
