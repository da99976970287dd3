"""Refuse targets that cannot belong to the estimates of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from labs.assigners.targets import Target
from labs.assigners.truths import Truths
from labs.boxes.estimates import Estimates


def truths_of(
    estimates: Estimates, targets: Sequence[Target], num_classes: int, who: str
) -> Truths:
    """Return the objects of the batch in float32, on the device of the estimates.

    Args:
        estimates: Of N images.
        targets: One dict per image, on any device: ``boxes`` [n,4] xyxy in pixels and ``labels``
            [n], from 0.
        num_classes: C, background not counted.
        who: Asks, and is named in errors.

    Raises:
        ValueError: When there is not one target per image, or one cannot be true.
    """
    images = len(estimates.logits)
    if images != len(targets) or not targets:
        raise ValueError(
            f"{who}: expected one target per image, and at least one, got estimates of {images} "
            f"images and {len(targets)} targets; an image without objects has boxes [0,4] and "
            "labels [0]"
        )
    return Truths.of(targets, estimates.references, num_classes, estimates.size, who)
