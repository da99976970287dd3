"""Decode the frames behind the first one, which a header says nothing about."""

from __future__ import annotations

from typing import Any

from PIL import Image

from labs.imagefile.error import BadImageError
from labs.imagefile.read import capped, open_header, refuse_large, why_undecoded

MAX_FRAMES = 1000  # a small file can hold a million


def about_frames(data: bytes, max_pixels: int) -> list[str]:
    """Return a warning when there are several frames, and another one when one is damaged.

    The limit holds for each frame, and for all together: what is beyond it is not decoded.

    Args:
        data: A file whose first frame is sound; call this inside ``strict_pillow``.
        max_pixels: The limit.
    """
    image: Any = open_header(data, max_pixels)
    try:
        if not getattr(image, "is_animated", False):
            return []
        count = image.n_frames
        with capped(max_pixels):
            _decode_later(image, count, max_pixels)
    except (BadImageError, Image.DecompressionBombError) as error:
        seen = str(error) if isinstance(error, BadImageError) else why_undecoded(error)
        return [f"{seen}; this is not the first frame, which is the one that is used"]
    except Exception as error:
        return [f"damaged frame: only the first is known to be sound, {error}"]
    return [f"several frames: {count} in one file, only the first is used"]


def _decode_later(image: Any, count: int, max_pixels: int) -> None:
    left = max_pixels - image.width * image.height
    for at in range(1, min(count, MAX_FRAMES)):
        if left < image.width * image.height:  # seeking may need as much as the frame before
            return
        image.seek(at)
        refuse_large(image.size, max_pixels)
        image.load()
        left -= image.width * image.height
