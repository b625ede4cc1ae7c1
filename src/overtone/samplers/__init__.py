"""Samplers: from noise to an image, step by step."""

from overtone import renamed

KINDS = {
    "sampler": {
        "AncestralSampler": "ancestral",
        "OperatorSampler": "operator",
        "ResamplingSampler": "repaint",
        "Sampler": "sampler",
    },
}
"""the module of each built-in kind"""

__getattr__, __dir__, __all__ = renamed.attach(__name__, __file__)
