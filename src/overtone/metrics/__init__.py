"""How good images are: Frechet and kernel distance, precision and recall, classes recognised."""

from overtone.metrics.evaluate import Evaluation, Report
from overtone.metrics.features import ClassifierExtractor, Extractor, InceptionExtractor
from overtone.metrics.scores import (
    FrechetDistance,
    frechet_distance,
    kernel_distance,
    precision_recall,
)

__all__ = [
    "ClassifierExtractor",
    "Evaluation",
    "Extractor",
    "FrechetDistance",
    "InceptionExtractor",
    "Report",
    "frechet_distance",
    "kernel_distance",
    "precision_recall",
]
