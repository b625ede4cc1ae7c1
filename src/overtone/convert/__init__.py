"""Published weights, under their own names, made ours."""

from overtone.convert.checkpoints import from_published

__all__ = ["from_published"]
