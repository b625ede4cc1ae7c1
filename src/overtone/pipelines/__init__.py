"""Pipelines: seeds and labels in, images out."""

import lazy_loader

KINDS = {"start": {"noise": "starts", "relay": "starts", "image": "edit"}}
"""the module of each built-in kind"""

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
