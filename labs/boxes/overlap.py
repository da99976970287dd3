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
    - ``ciou``: ``diou`` minus a term for the aspect ratio (both Zheng et al. 2020). Its weight
      ``alpha`` is the paper's ``v / (1 - iou + v)`` for every pair, as in torchvision; a later
      paper of the same authors sets it to 0 where IoU < 0.5.

    Value and gradient are finite for boxes without width or height, equal, inside out or far
    apart. A box inside out counts as one without area, and two boxes without area have IoU 0.

    Args:
        boxes: xyxy in pixels, [...,4].
        others: The same, [...,4].
        kind: One of :data:`KINDS`.
        eps: The area, in square pixels, from which a box counts as having one. It changes no
            larger box.

    Returns:
        One number a pair, in float32 (half precision and integers are widened first) or float64.

    Raises:
        ValueError: When the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"overlap: expected a kind of {', '.join(KINDS)}, got {kind!r}")
    wide = torch.promote_types(torch.promote_types(boxes.dtype, others.dtype), torch.float32)
    boxes, others = boxes.to(wide), others.to(wide)
    union, iou = _union_and_iou(boxes, others, eps)
    if kind == "iou":
        return iou
    if kind == "giou":
        return iou - _empty_share(boxes, others, union, eps)
    diou = iou - _distance(boxes, others, eps)
    return diou if kind == "diou" else diou - _misshape(boxes, others, iou, eps)


def _union_and_iou(boxes: Tensor, others: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the area of the union and the share of it that both boxes cover."""
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = _area(torch.cat([low, high], -1))
    union = _area(boxes) + (_area(others) - shared)  # in this order IoU never rounds above 1
    return union, _share(shared, union, eps)


def _empty_share(boxes: Tensor, others: Tensor, union: Tensor, eps: float) -> Tensor:
    """Return which share of the smallest box around both belongs to neither."""
    area = _area(_around(boxes, others))
    return _share(area - union, area, eps)


def _distance(boxes: Tensor, others: Tensor, eps: float) -> Tensor:
    """Return the squared distance of the centres over the squared diagonal of the box around."""
    moved = boxes - others  # before adding the corners up, so that equal boxes give exactly 0
    centres = (moved[..., :2] + moved[..., 2:]) / 2
    width, height = _size(_around(boxes, others))
    return _share(centres.square().sum(-1), width.square() + height.square(), eps)


def _misshape(boxes: Tensor, others: Tensor, iou: Tensor, eps: float) -> Tensor:
    """Return how far the aspect ratios differ, weighed more the better the boxes overlap."""
    v = 4 / math.pi**2 * (_angle(boxes, eps) - _angle(others, eps)).square()
    alpha = v / (1 - iou + v).clamp(min=eps)
    return alpha.detach() * v  # the paper treats alpha as a weight, not as a function


def _angle(boxes: Tensor, eps: float) -> Tensor:
    """Return the angle of the diagonal to the vertical, which stands for the aspect ratio."""
    width, height = _size(boxes)
    return torch.atan(width / height.clamp(min=math.sqrt(eps)))


def _around(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the smallest boxes that hold both, [...,4]."""
    low = torch.minimum(boxes[..., :2], others[..., :2])
    return torch.cat([low, torch.maximum(boxes[..., 2:], others[..., 2:])], -1)


def _size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return width and height, 0 for boxes inside out."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width, height


def _area(boxes: Tensor) -> Tensor:
    width, height = _size(boxes)
    return width * height


def _share(part: Tensor, whole: Tensor, eps: float) -> Tensor:
    """Divide; where there is nothing to divide by, the share and its gradient are 0."""
    return torch.where(whole > eps, part, 0) / whole.clamp(min=eps)
