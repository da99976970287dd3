"""Decide which of several objects gets a place that only one can have."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_largest(place: Tensor, boxes: Tensor) -> Tensor:
    """Return which objects keep their place: the largest of each place, in ascending place.

    The papers leave it open, and the authors' programs keep the one that comes first or last. By
    size, the order of the targets changes nothing (unless two objects are equally large).

    Args:
        place: A number for the place each object asks for, [n] of int64.
        boxes: xyxy in pixels, [n,4].

    Returns:
        Indices of the objects that are kept, [m] of int64.
    """
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    order = area.argsort(descending=True, stable=True)
    order = order[place[order].argsort(stable=True)]  # by place, and by size within a place
    first = torch.ones_like(place, dtype=torch.bool)
    first[1:] = place[order][1:] != place[order][:-1]
    return order[first]
