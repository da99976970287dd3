"""Lay shapes over an image, the same at every cell of a map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def lay(centres: Tensor, shapes: Tensor) -> Tensor:
    """Return a box of each shape around each centre, row by row, cell by cell: [H*W*A,4].

    Args:
        centres: x and y of each cell in pixels, [H,W,2].
        shapes: Width and height in pixels, [A,2].
    """
    centres, half = centres[:, :, None], shapes / 2  # [H,W,1,2] and [A,2]
    return torch.cat([centres - half, centres + half], -1).reshape(-1, 4)


def refuse_other_levels(who: str, maps: Sequence[Tensor], levels: int) -> None:
    """Raise ValueError unless there is one map per level; ``who`` lays boxes over them."""
    if len(maps) != levels:
        raise ValueError(f"{who}: expected {levels} maps, one per level, got {len(maps)}")
