"""Images to learn from: what ships with Overtone or its dependencies, and folders of images."""

from overtone import renamed

__getattr__, __dir__, __all__ = renamed.attach(__name__, __file__)
