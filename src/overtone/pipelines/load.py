"""Opening a saved pipeline, ours or one of diffusers."""

from __future__ import annotations

from pathlib import Path

from overtone import storage
from overtone.pipelines.foreign import diffusers_pipeline
from overtone.pipelines.index import is_diffusers, is_pipeline
from overtone.pipelines.pipeline import Pipeline


def load_pipeline(name: str | Path, revision: str | None = None) -> Pipeline:
    """The pipeline in a directory or in a repository of the Hub: one of Overtone's, or one of
    diffusers with a U-Net or DiT. Raises `OvertoneError` for anything else."""
    folder = storage.locate(name, revision)
    if is_diffusers(folder) and not is_pipeline(folder):
        return diffusers_pipeline(folder)
    return Pipeline.from_pretrained(folder)
