"""Lay the maps of several levels end to end, and say where in the image each cell stands."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labs.boxes.grid import cell_centres


def flatten_levels(maps: Sequence[Tensor], strides: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Turn maps into one list of cells: level after level, row after row.

    Args:
        maps: One per level, [N,K,H,W].
        strides: Pixels per cell, one per level.

    Returns:
        The values [N,P,K]; the centres of the cells in pixels, [P,2]; and their strides, [P,1].
        The last two are float32, also where the values are half precision.
    """
    values = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1)
    points, sizes = [], []
    for level, stride in zip(maps, strides, strict=True):
        height, width = level.shape[2:]
        like = level.new_empty(0, dtype=torch.float32)
        points.append(cell_centres(height, width, like).reshape(-1, 2) * stride)
        sizes.append(like.new_full((height * width, 1), stride))
    return values, torch.cat(points), torch.cat(sizes)
