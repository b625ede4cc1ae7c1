"""Scripts that are written beside exported models, which sample without Overtone."""
