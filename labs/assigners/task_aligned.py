"""Let the predictions that are good at both tasks answer for an object (Feng et al. 2021, TOOD).

A prediction is worth ``score ** alpha * overlap ** beta`` to an object: how sure it is of the right
class, and how well its box lies. The best few whose points lie inside the object learn from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labs.boxes.overlap import overlap


@dataclass(frozen=True, eq=False)
class Assignment:
    """Hold which object each prediction answers for.

    Attributes:
        objects: Index of the object, or -1 for background, [N,P], int64.
        quality: What the score of the object's class should be, in [0, 1], [N,P]; 0 for
            background. The best prediction of an object gets its overlap with it, the others less.
    """

    objects: Tensor
    quality: Tensor

    def __repr__(self) -> str:
        matched = int((self.objects >= 0).sum())
        return f"Assignment({matched} of {self.objects.numel()} predictions answer for an object)"


@dataclass(frozen=True)
class TaskAligned:
    """Assign predictions to objects by how well class and box agree with them.

    A point that several objects choose goes to the one that its box overlaps most; equal
    predictions or objects are taken in their order. A prediction without any overlap is never
    chosen, so an object between the points has none.

    Attributes:
        topk: Predictions per object, at most.
        alpha: Power of the score.
        beta: Power of the overlap, which is CIoU, and 0 where that is negative.
    """

    topk: int = 10
    alpha: float = 0.5
    beta: float = 6.0

    def __post_init__(self) -> None:
        if self.topk < 1 or self.alpha < 0 or self.beta < 0:
            raise ValueError(
                "TaskAligned: expected topk >= 1, alpha >= 0 and beta >= 0, got "
                f"topk={self.topk}, alpha={self.alpha}, beta={self.beta}"
            )

    @torch.no_grad()
    def __call__(
        self,
        scores: Tensor,
        boxes: Tensor,
        points: Tensor,
        object_boxes: Tensor,
        object_labels: Tensor,
        exists: Tensor,
    ) -> Assignment:
        """Assign the predictions of a batch.

        Args:
            scores: Of each prediction and class, in [0, 1], [N,P,C].
            boxes: Predicted, xyxy in pixels, [N,P,4].
            points: Where the predictions stand, in pixels, [P,2].
            object_boxes: [N,G,4], padded to the most objects of an image.
            object_labels: [N,G], int64; any class where there is no object.
            exists: False for padding, [N,G].
        """
        if object_boxes.shape[1] == 0:
            return Assignment(scores.new_full(scores.shape[:2], -1).long(), scores[..., 0] * 0)
        allowed = inside(points, object_boxes) & exists[..., None]  # [N,G,P]
        overlaps = overlap(object_boxes[:, :, None], boxes[:, None], "ciou").clamp(min=0) * allowed
        index = object_labels[..., None].expand(-1, -1, scores.shape[1])
        right_class = scores.transpose(1, 2).gather(1, index)  # [N,G,P]
        metric = right_class**self.alpha * overlaps**self.beta * allowed
        chosen = first_best(metric, self.topk) & (metric > 0)
        # Of the objects that chose a point, the one with most overlap; argmax takes the first.
        best = overlaps.where(chosen, -1).argmax(1, keepdim=True)  # [N,1,P]
        chosen = chosen & torch.zeros_like(chosen).scatter(1, best, True)
        objects = best[:, 0].where(chosen.any(1), -1)
        return Assignment(objects, aligned_quality(metric, overlaps, chosen))


def inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Tell whether points [P,2] lie strictly inside boxes [N,G,4]: [N,G,P]."""
    corners = boxes[:, :, None]  # [N,G,1,4]
    return ((points > corners[..., :2]) & (points < corners[..., 2:])).all(-1)


def first_best(values: Tensor, count: int) -> Tensor:
    """Mark the highest values along the last axis; of equal ones the first, on every device."""
    count = min(count, values.shape[-1])
    least = values.topk(count, -1).values[..., -1:]
    above, equal = values > least, values == least
    room = count - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= room))


def aligned_quality(metric: Tensor, overlaps: Tensor, chosen: Tensor) -> Tensor:
    """Scale the metric of each object so that its best prediction gets its best overlap: [N,P]."""
    metric, overlaps = metric * chosen, overlaps * chosen
    top = metric.amax(-1, keepdim=True)
    scaled = metric / top.where(top > 0, 1) * overlaps.amax(-1, keepdim=True)
    return scaled.amax(1)  # a point has at most one object
