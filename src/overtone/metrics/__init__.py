"""How good images are: Frechet and kernel distance, precision and recall, classes recognised."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
