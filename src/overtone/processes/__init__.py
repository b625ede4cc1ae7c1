"""What becomes of a clean image: noise levels over time, the forward process, noise sources."""

from overtone import renamed

KINDS = {
    "schedule": {
        "quantile": "schedule",
        "vp_linear": "schedule",
        "vp_cosine": "schedule",
        "ve": "schedule",
        "discrete": "discrete",
        "flow": "flow",
    },
    "process": {"GaussianProcess": "gaussian", "RelayProcess": "relay"},
}
"""the module of each built-in kind"""

__getattr__, __dir__, __all__ = renamed.attach(__name__, __file__)
