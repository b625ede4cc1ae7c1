"""Images to learn from: what ships with Overtone or its dependencies, and folders of images."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
