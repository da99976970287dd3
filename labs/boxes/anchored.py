"""Turn what YOLOv5 and v7 say about an anchor into a box.

Four numbers t stand for a box at an anchor of a cell. With s = 2*sigmoid(t), the centre lies
s - 0.5 cells right of and below the cell's upper left corner, so that the two nearest cells can
reach it as well, and the size is s**2 times the anchor's, so from 0 to 4 times. A network that says
0 everywhere says: an anchor in the middle of every cell.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labs.boxes.precision import widen


def split_anchors(level: Tensor, anchors: int) -> Tensor:
    """Give each anchor its own numbers: [N, A*K, H, W] to [N,A,H,W,K], at least float32.

    Args:
        level: What the network says at one level.
        anchors: Anchors of each cell, A.

    Raises:
        ValueError: When the channels cannot be shared out among the anchors.
    """
    if level.ndim != 4 or level.shape[1] % anchors:
        raise ValueError(
            f"split_anchors: expected [N, {anchors}*(5+C), H, W] for {anchors} anchors a cell, got "
            f"{tuple(level.shape)}; give the network and its criterion as many anchors"
        )
    return widen(level).unflatten(1, (anchors, -1)).permute(0, 1, 3, 4, 2)


def decode_anchored(values: Tensor, corners: Tensor, anchors: Tensor, stride: int) -> Tensor:
    """Return the boxes that raw numbers stand for, xyxy in pixels, [...,4].

    Args:
        values: x, y, w, h as the network says them, [...,4].
        corners: Column and row of the cells, [...,2].
        anchors: Width and height in pixels, [...,2].
        stride: Pixels per cell.
    """
    scaled = 2 * values.sigmoid()
    centre = (corners + scaled[..., :2] - 0.5) * stride
    half = anchors * scaled[..., 2:].square() / 2
    return torch.cat([centre - half, centre + half], -1)
