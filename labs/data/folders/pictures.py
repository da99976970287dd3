"""Read pictures and check boxes, for every layout alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Target = dict[str, Tensor]
SLACK = 1.0  # px: tools round, so a box may reach this far beyond its picture, and is clipped


def read_picture(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """Return a picture as [3,H,W], float32 in [0, 1].

    Args:
        path: Any format of Pillow.
        size: Height and width it must have, if they are known.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it has another size.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a picture, got no file; is the folder complete?")
    with Image.open(path) as file:
        pixels = np.array(file.convert("RGB"))
    if size is not None and pixels.shape[:2] != size:
        raise ValueError(
            f"{path}: expected height and width {size} as annotated, got {pixels.shape[:2]}; a "
            "resized picture needs resized boxes"
        )
    return torch.from_numpy(pixels).permute(2, 0, 1).float().div_(255).contiguous()


def checked_box(box: list[float], size: tuple[int, int], where: str) -> list[float] | None:
    """Return x1, y1, x2, y2 clipped to the picture, or ``None`` when the box has no area.

    Args:
        box: x1, y1, x2, y2 in pixels at their edges.
        size: Height and width of the picture.
        where: Names the annotation in the error.

    Raises:
        ValueError: When the box reaches more than a pixel beyond the picture, is inside out, or is
            not finite.
    """
    (h, w), (x1, y1, x2, y2) = size, box
    inside = -SLACK <= x1 <= x2 <= w + SLACK and -SLACK <= y1 <= y2 <= h + SLACK
    if not inside:  # not finite is not inside
        raise ValueError(
            f"{where}: expected x1 <= x2 in [0, {w}] and y1 <= y2 in [0, {h}], got the box "
            f"{[round(v, 2) for v in box]}; is it in another format, or of another picture?"
        )
    x1, x2 = max(0.0, x1), min(float(w), x2)
    y1, y2 = max(0.0, y1), min(float(h), y2)
    return [x1, y1, x2, y2] if x2 > x1 and y2 > y1 else None
