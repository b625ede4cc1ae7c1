"""How good images are, and how well that is known: scores with intervals, and reports."""

from overtone import renamed

KINDS = {
    "extractor": {
        "classifier": "extractors",
        "inception": "extractors",
        "dinov2": "extractors",
        "random": "extractors",
    },
    "score": {
        "frechet": "scores",
        "spatial-frechet": "scores",
        "kernel": "scores",
        "inception-score": "scores",
        "precision-recall": "scores",
        "density-coverage": "scores",
        "class-accuracy": "scores",
        "memorisation": "scores",
        "solver-error": "scores",
    },
}
"""the module of each built-in kind"""

__getattr__, __dir__, __all__ = renamed.attach(__name__, __file__)
