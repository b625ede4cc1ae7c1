"""The `overtone` command."""
