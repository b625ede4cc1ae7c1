"""How good images are: Frechet and kernel distance, precision and recall, classes recognised."""

from overtone import renamed

__getattr__, __dir__, __all__ = renamed.attach(__name__, __file__)
