"""Measure how well two boxes agree: IoU and its kin, in value and in gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

KINDS = ("iou", "giou", "diou", "ciou")


def overlap(boxes: Tensor, others: Tensor, kind: str = "iou", eps: float = 1e-7) -> Tensor:
    """Return the agreement of boxes: 1 for equal ones, less for others.

    The two broadcast like any tensors: ``overlap(a, b)`` compares pairs, and
    ``overlap(a[:, None], b)`` compares each with each.

    - ``iou``: intersection over union, in [0, 1]; its gradient is 0 when the boxes are apart.
    - ``giou``: minus the empty share of the smallest box around both (Rezatofighi et al. 2019).
    - ``diou``: minus the squared distance of the centres, over the squared diagonal of that box.
    - ``ciou``: ``diou`` minus a term for the aspect ratio (both Zheng et al. 2020).

    Args:
        boxes: xyxy in pixels, [...,4].
        others: The same, [...,4].
        kind: One of :data:`KINDS`.
        eps: Keeps divisors above zero.

    Raises:
        ValueError: When the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"overlap: expected a kind of {', '.join(KINDS)}, got {kind!r}")
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    size, other_size = boxes[..., 2:] - boxes[..., :2], others[..., 2:] - others[..., :2]
    shared = (high - low).clamp(min=0).prod(-1)
    union = size.prod(-1) + other_size.prod(-1) - shared
    iou = shared / (union + eps)
    if kind == "iou":
        return iou
    around = torch.maximum(boxes[..., 2:], others[..., 2:]) - torch.minimum(
        boxes[..., :2], others[..., :2]
    )
    if kind == "giou":
        area = around.prod(-1)
        return iou - (area - union) / (area + eps)
    apart = (boxes[..., :2] + boxes[..., 2:] - others[..., :2] - others[..., 2:]).square().sum(-1)
    diou = iou - apart / 4 / (around.square().sum(-1) + eps)
    if kind == "diou":
        return diou
    angle = torch.atan(other_size[..., 0] / (other_size[..., 1] + eps)) - torch.atan(
        size[..., 0] / (size[..., 1] + eps)
    )
    v = 4 / math.pi**2 * angle.square()
    with torch.no_grad():  # the paper treats alpha as a weight, not as a function
        alpha = v / (1 - iou + v + eps)
    return diou - alpha * v
