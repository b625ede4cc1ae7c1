"""Opening a saved pipeline: ours, a run's or one of diffusers."""

from __future__ import annotations

from pathlib import Path

from overtone import storage
from overtone.pipelines.foreign import diffusers_pipeline
from overtone.pipelines.index import is_diffusers, is_pipeline
from overtone.pipelines.pipeline import Pipeline
from overtone.runs import find_checkpoint, is_run


def load_pipeline(
    name: str | Path, revision: str | None = None, *, checkpoint: str = "last"
) -> Pipeline:
    """The pipeline in a directory or in a repository of the Hub: one of Overtone's, or one of
    diffusers with a U-Net or DiT. Of a run's directory it is that of the `checkpoint`, "last" or
    "best". Raises `OvertoneError` for anything else."""
    folder = storage.locate(name, revision)
    if is_run(folder):
        folder = find_checkpoint(folder, checkpoint)
    if is_diffusers(folder) and not is_pipeline(folder):
        return diffusers_pipeline(folder)
    return Pipeline.from_pretrained(folder)
