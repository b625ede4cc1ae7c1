"""Pipelines: seeds and labels in, images out."""

from overtone import renamed

KINDS = {"start": {"noise": "starts", "relay": "starts", "image": "edit"}}
"""the module of each built-in kind"""

__getattr__, __dir__, __all__ = renamed.attach(__name__, __file__)
