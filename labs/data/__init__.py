"""Load small real image sets, and find and survive what is wrong with others."""

from labs.data.idx import clothes, digits
from labs.data.images import ImageSet

__all__ = ["ImageSet", "clothes", "digits"]
