"""Names of data. Nothing here imports torch."""

from __future__ import annotations

NAMES = ("builtin:digits", "builtin:glyphs", "fashion-mnist")
"""The data sets that Overtone knows by itself."""

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""The suffixes of files that are read as images."""
