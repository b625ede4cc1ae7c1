"""Published weights, under their own names, made ours."""

from overtone.convert.checkpoints import from_published
from overtone.convert.dit import dit_pipeline

__all__ = ["dit_pipeline", "from_published"]
