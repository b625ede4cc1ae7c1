"""Denoisers: what a clean image is expected to be, given a noisy one and its noise level."""

from overtone import renamed

KINDS = {
    "preconditioning": {
        "edm": "preconditioning",
        "vp": "preconditioning",
        "ve": "preconditioning",
        "score": "preconditioning",
        "flow": "preconditioning",
        "operator": "preconditioning",
    },
}
"""the module of each built-in kind"""

__getattr__, __dir__, __all__ = renamed.attach(__name__, __file__)
