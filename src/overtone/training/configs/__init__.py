"""Settings of what is trained. Nothing here imports torch."""
