"""Pipelines: seeds and labels in, images out."""

from overtone.pipelines.base import ImagePipeline, load_pipeline
from overtone.pipelines.diffit import DiffiTPipeline, LatentDiffiTPipeline
from overtone.pipelines.dsno import DSNOPipeline
from overtone.pipelines.meme import MEMEPipeline
from overtone.pipelines.relay import RelayPipeline

__all__ = [
    "DSNOPipeline",
    "DiffiTPipeline",
    "ImagePipeline",
    "LatentDiffiTPipeline",
    "MEMEPipeline",
    "RelayPipeline",
    "load_pipeline",
]
