"""Figures, one noun a file."""
