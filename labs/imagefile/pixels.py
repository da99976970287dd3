"""Turn a decoded picture of any mode into RGB. Every data set reads its pictures here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labs.imagefile.arrays import array_to_rgb, read_array
from labs.imagefile.error import BadImageError
from labs.imagefile.read import MAX_BYTES, MAX_PIXELS, decode, read, upright, why_undecoded

SIXTEEN_BIT = 65_535
Pixels = NDArray[np.uint8] | NDArray[np.float32]


def read_rgb(path: Path, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Pixels:
    """Read one picture, whatever its format and mode; see :func:`to_rgb`.

    Raises:
        BadImageError: When the file gives no pixels.
    """
    data = read(path, max_bytes)
    if data.startswith(b"\x93NUMPY"):
        return array_to_rgb(read_array(path, max_pixels))
    return to_rgb(decode(data, max_pixels))


def to_rgb(image: Image.Image) -> Pixels:
    """Return a decoded image as RGB, upright by its EXIF tag: [H,W,3].

    Eight bits stay uint8, 0 to 255. Deeper pictures become float32 in [0, 1], divided by their
    white, where ``convert("RGB")`` would cut them at 255. Alpha is dropped, as torchvision's loader
    does: the colours below it are shown.

    Raises:
        BadImageError: When the mode has no known white; see :func:`white_of`.
    """
    white = white_of(image)
    image = upright(image)
    if white is None:
        if image.mode == "P":  # transparent entries of a palette: without a warning only like this
            image = image.convert("RGBA")
        return np.array(_convert(image))
    gray: NDArray[np.float32] = np.asarray(image).astype(np.float32) / np.float32(white)
    return np.repeat(gray[..., None], 3, axis=2)


def white_of(image: Image.Image) -> int | None:
    """Return the value of white in a picture of more than 8 bits; ``None`` for 8 bits.

    ``I;16`` in every byte order has 65,535. So has ``I``, which is how Pillow gives a 16-bit PGM
    and what 16-bit values in a wider TIFF become, when its values fit. ``F`` has 1 when all values
    lie in [0, 1].

    Raises:
        BadImageError: When values lie outside, so that nobody knows what is white.
    """
    if image.mode.startswith("I;16"):
        return SIXTEEN_BIT
    if image.mode not in ("I", "F"):
        return None
    white = SIXTEEN_BIT if image.mode == "I" else 1
    values: NDArray[Any] = np.asarray(image)
    low, high = values.min(), values.max()
    if low >= 0 and high <= white:  # NaN is neither
        return white
    raise BadImageError(
        f"unknown range: mode {image.mode} with values from {low:g} to {high:g}, expected 0 to "
        f"{white:,}; scale them, and save 8 or 16 bit"
    )


def _convert(image: Image.Image) -> Image.Image:
    try:
        return image.convert("RGB")
    except Exception as error:
        raise BadImageError(why_undecoded(error)) from error
