"""Read pictures that are stored as NumPy arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labs.imagefile.error import BadImageError

_WHITE = {"bool": 1, "uint8": 255, "uint16": 65_535}


def read_array(path: Path, max_pixels: int) -> NDArray[Any]:
    """Map a ``.npy`` file: [H,W] or [H,W,C] with 1 to 4 channels, of bool, uint8, uint16 or float.

    Raises:
        BadImageError: When it is damaged, needs pickle, is too large, or is no picture.
    """
    try:  # mapped, not read: the header is judged before a number is touched
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        problem = "needs pickle" if "object" in str(error).lower() else "corrupt"
        raise BadImageError(f"{problem}: {error}") from error
    kind = f"an array {array.shape} of {array.dtype}"
    if array.dtype.kind not in "biuf" or array.size == 0:
        raise BadImageError(f"not a picture: {kind}")
    if array.size > 4 * max_pixels:  # four channels at most
        raise BadImageError(f"too many pixels: {kind}")
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] <= 4):
        raise BadImageError(f"not a picture: {kind}, expected [H,W] or [H,W,C] with C <= 4")
    _refuse_unknown_white(array)
    return array


def array_to_rgb(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return an array of :func:`read_array` as [H,W,3], float32 in [0, 1]; alpha is dropped."""
    pixels = array.astype(np.float32) / _WHITE.get(array.dtype.name, 1)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    colours = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1]
    return np.ascontiguousarray(np.broadcast_to(colours, (*pixels.shape[:2], 3)))


def _refuse_unknown_white(array: NDArray[Any]) -> None:
    if array.dtype.name in _WHITE:
        return
    if array.dtype.kind == "f" and (odd := int(np.count_nonzero(~np.isfinite(array)))):
        raise BadImageError(f"not finite: {odd:,} of {array.size:,} values are NaN or infinite")
    low, high = array.min(), array.max()
    if array.dtype.kind != "f" or low < 0 or high > 1:
        raise BadImageError(
            f"unknown range: {array.dtype} from {low} to {high}; expected uint8, uint16, or floats "
            "in [0, 1]"
        )
