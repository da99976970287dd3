"""Tell a box by its distances from a point inside, and a distance by a distribution."""

from __future__ import annotations

import torch
from torch import Tensor


def to_sides(boxes: Tensor, points: Tensor) -> Tensor:
    """Return how far the sides of boxes are from points: left, top, right, bottom, [...,4].

    A distance is negative when the point lies beyond that side, so the point is inside the box
    where all four are positive (Tian et al. 2019).

    Args:
        boxes: xyxy, [...,4].
        points: x and y in the unit of the boxes, [...,2]; broadcast against the boxes.
    """
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)


def from_sides(sides: Tensor, points: Tensor) -> Tensor:
    """Return the boxes, xyxy [...,4], whose sides lie that far from the points.

    Args:
        sides: Left, top, right, bottom, [...,4].
        points: x and y in the unit of the distances, [...,2]; broadcast against the sides.
    """
    return torch.cat([points - sides[..., :2], points + sides[..., 2:]], -1)


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Pull a distribution over 0, 1, … reg_max - 1 to the two whole numbers beside the target.

    With ``i <= y <= i + 1`` the loss is ``-((i + 1 - y) log S_i + (y - i) log S_(i+1))``, smallest
    where the distribution's mean is ``y`` (Li et al. 2020). At a whole number it is the cross
    entropy.

    A target outside [0, reg_max - 1] counts as the nearest end, because no distribution can have
    a larger mean. So the longest side that a level can tell is ``reg_max - 1`` strides: what is
    assigned to a level where it does not fit will always be detected too small.

    Args:
        logits: [...,reg_max].
        target: The distances, in strides, [...].

    Returns:
        The loss of each distance, [...], in float32 at least.

    Raises:
        ValueError: When the shapes do not belong together, or ``reg_max`` is below 2.
    """
    bins = logits.shape[-1]
    if logits.shape[:-1] != target.shape or bins < 2:
        raise ValueError(
            "distribution_focal_loss: expected logits [...,reg_max] with reg_max >= 2 and a target "
            f"[...], got {list(logits.shape)} and {list(target.shape)}"
        )
    wide = torch.promote_types(logits.dtype, torch.float32)
    target = target.to(wide).clamp(0, bins - 1)
    below = target.long().clamp(0, bins - 2)  # the last bin is reached from the one below it
    pair = torch.stack([below, below + 1], -1)
    share_above = target - below
    log_share = logits.to(wide).log_softmax(-1).gather(-1, pair)  # [...,2]
    return -(log_share[..., 0] * (1 - share_above) + log_share[..., 1] * share_above)


def expected_side(logits: Tensor) -> Tensor:
    """Return the means of distributions over 0, 1, … reg_max - 1.

    Args:
        logits: [...,reg_max].

    Returns:
        The distances in strides, [...], from 0 to ``reg_max - 1``, in float32 at least.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    values = torch.arange(logits.shape[-1], dtype=wide, device=logits.device)
    # A matrix product would be shorter, and autocast would round it to half precision.
    return (logits.to(wide).softmax(-1) * values).sum(-1)
