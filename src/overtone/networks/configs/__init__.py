"""Settings of the networks. Nothing here imports torch."""
