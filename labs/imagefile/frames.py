"""Decode the frames behind the first one, which a header says nothing about."""

from __future__ import annotations

from typing import Any

from PIL import Image

from labs.imagefile.error import BadImageError
from labs.imagefile.read import capped, open_header, refuse_large, why_undecoded

MAX_FRAMES = 1000  # a small file can hold a million


def about_frames(image: Image.Image, data: bytes, max_pixels: int) -> list[str]:
    """Return a warning when there are several frames, and another one when one is damaged.

    The limit holds for each frame, and for all together: what is beyond it is not decoded.

    Args:
        image: The first frame, decoded. It is not moved: the file is opened again, unless its
            format or its header says that there is nothing behind.
        data: The file; call this inside ``strict_pillow``.
        max_pixels: The limit.
    """
    if not (hasattr(type(image), "is_animated") or vars(image).get("is_animated", False)):
        return []  # as a class has it, it is found by looking; as an object has it, it is known
    image = open_header(data, max_pixels)
    return _about_several(image, max_pixels)


def _about_several(image: Any, max_pixels: int) -> list[str]:
    try:
        if not image.is_animated:
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
