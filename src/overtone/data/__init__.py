"""Images to learn from: what ships with Overtone or its dependencies, and folders of images."""

from overtone.data.images import ArrayData, ImageData, to_pixels, to_unit
from overtone.data.open import held_out, open_data

__all__ = ["ArrayData", "ImageData", "held_out", "open_data", "to_pixels", "to_unit"]
