"""Samplers: from noise to an image, step by step."""

import lazy_loader

KINDS = {
    "sampler": {
        "AncestralSampler": "ancestral",
        "OperatorSampler": "operator",
        "ResamplingSampler": "repaint",
        "Sampler": "sampler",
    },
}
"""the module of each built-in kind"""

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
