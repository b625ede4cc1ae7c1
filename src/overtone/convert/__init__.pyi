from .checkpoints import from_published as from_published
from .dit import dit_pipeline as dit_pipeline
