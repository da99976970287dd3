"""Give pictures from files as tensors: the one reader of every data set of this package."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from labs.imagefile.pixels import Pixels, read_rgb, to_rgb
from labs.imagefile.read import MAX_PIXELS


def read_tensor(path: Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Return a picture of any format and mode as RGB, upright: [3,H,W], float32 in [0, 1].

    Raises:
        BadImageError: When the file gives no pixels; it does not name the file.
    """
    return _tensor(read_rgb(path, max_pixels))


def to_tensor(image: Image.Image) -> Tensor:
    """Return a decoded image as RGB, upright by its EXIF tag: [3,H,W], float32 in [0, 1].

    See :func:`labs.imagefile.pixels.to_rgb` for what becomes of deep pictures and of alpha.

    Raises:
        BadImageError: When the mode has no known white.
    """
    return _tensor(to_rgb(image))


def _tensor(pixels: Pixels) -> Tensor:
    white = 1 if pixels.dtype.kind == "f" else 255
    return torch.from_numpy(pixels).permute(2, 0, 1).float().div_(white).contiguous()
