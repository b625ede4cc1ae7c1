from .images import ArrayData as ArrayData
from .images import ImageData as ImageData
from .images import to_pixels as to_pixels
from .images import to_unit as to_unit
from .open import held_out as held_out
from .open import open_data as open_data
from .open import public_name as public_name
