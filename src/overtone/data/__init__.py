"""Images to learn from: what ships with Overtone or its dependencies, and folders of images."""

from overtone.data.images import ArrayData, ImageData, to_pixels, to_unit
from overtone.data.open import held_out, open_data, public_name

__all__ = ["ArrayData", "ImageData", "held_out", "open_data", "public_name", "to_pixels", "to_unit"]
