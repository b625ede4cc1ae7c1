"""Published weights, under their own names, made ours."""

from overtone import renamed

__getattr__, __dir__, __all__ = renamed.attach(__name__, __file__)
