"""How good images are: Frechet distance, precision and recall, share of classes recognised."""

from overtone.metrics.evaluate import Evaluation, Report
from overtone.metrics.features import ClassifierExtractor
from overtone.metrics.scores import FrechetDistance, frechet_distance, precision_recall

__all__ = [
    "ClassifierExtractor",
    "Evaluation",
    "FrechetDistance",
    "Report",
    "frechet_distance",
    "precision_recall",
]
