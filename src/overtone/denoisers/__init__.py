"""Denoisers: what a clean image is expected to be, given a noisy one and its noise level."""

import lazy_loader

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

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
