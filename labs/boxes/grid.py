"""Say where the cells of a feature map lie in the image."""

from __future__ import annotations

import torch
from torch import Tensor


def cell_corners(height: int, width: int, like: Tensor) -> Tensor:
    """Return x and y of the upper left corner of each cell, in cells: [H,W,2].

    Args:
        height: Rows of the map.
        width: Columns of the map.
        like: Whose device to use, and whose dtype; half precision is widened to float32, as it
            has no half cells above 128 (bfloat16) or 1,024 (float16).
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    y = torch.arange(height, device=like.device, dtype=dtype)
    x = torch.arange(width, device=like.device, dtype=dtype)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], -1)  # x first: [H,W,2]


def cell_centres(height: int, width: int, like: Tensor) -> Tensor:
    """Return x and y of the centre of each cell, in cells: [H,W,2]; times the stride, in pixels."""
    return cell_corners(height, width, like) + 0.5
