"""Pipelines: seeds and labels in, images out."""

from overtone.pipelines.base import ImagePipeline, load_pipeline
from overtone.pipelines.diffit import DiffiTPipeline, LatentDiffiTPipeline

__all__ = ["DiffiTPipeline", "ImagePipeline", "LatentDiffiTPipeline", "load_pipeline"]
