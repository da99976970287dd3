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

    1. Candidates of an object are the points strictly inside its box. That is all there is of a
       centre prior: a point in the middle counts no more than one at the rim. An object that
       covers no point, such as one of 110x3 pixels between two rows of cells, has no candidate and
       is not learned; ``least_side`` is the cure.
    2. It chooses the ``topk`` candidates of the highest metric; of equal ones the first. A
       prediction without any overlap has a metric of 0 and is never chosen.
    3. A point that several objects chose goes to the one that its box overlaps most; of equal ones
       to the first.

    In three ways this differs from the widely used program of YOLOv8. There a point that several
    objects chose may go to an object that did *not* choose it, if the point's box overlaps that
    one most. There 1e-9 is added to the highest metric before dividing by it; with the usual powers
    that lowers the wanted scores of objects whose best overlap is below about 0.25, and nothing
    else. And its newest versions enlarge short sides, as ``least_side=16`` does here.

    Attributes:
        topk: Predictions per object, at most.
        alpha: Power of the score.
        beta: Power of the overlap, which is CIoU, and 0 where that is negative.
        least_side: In pixels. A box whose width or height is smaller counts as so wide or so high,
            around its centre, when points inside are looked for, and for nothing else. With twice
            the finest stride every object whose centre is in the image has a candidate. With 0
            boxes are taken as they are.
    """

    topk: int = 10
    alpha: float = 0.5
    beta: float = 6.0
    least_side: float = 0.0

    def __post_init__(self) -> None:
        if self.topk < 1 or self.alpha < 0 or self.beta < 0 or not self.least_side >= 0:
            raise ValueError(
                "TaskAligned: expected topk >= 1, alpha >= 0, beta >= 0 and least_side >= 0, got "
                f"topk={self.topk}, alpha={self.alpha}, beta={self.beta}, "
                f"least_side={self.least_side}"
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
        images, objects = object_boxes.shape[:2]
        if objects == 0:
            background = scores.new_full(scores.shape[:2], -1, dtype=torch.int64)
            return Assignment(background, torch.zeros_like(background, dtype=scores.dtype))
        allowed = inside(points, _enlarged(object_boxes, self.least_side)) & exists[..., None]
        # Few points lie inside an object, so the pairs [K] are told one by one, not as [N,G,P].
        image, mine, place = pair = allowed.nonzero(as_tuple=True)
        agreement = overlap(object_boxes[image, mine], boxes[image, place], "ciou").clamp(min=0)
        right_class = scores[image, place, object_labels[image, mine]]
        metric = right_class**self.alpha * agreement**self.beta
        every = metric.new_zeros(allowed.shape).index_put(pair, metric)
        chosen = (_first_best(every, self.topk) & (every > 0))[pair]
        owner = image * objects + mine  # a number for each object and each point of the batch
        spot = image * scores.shape[1] + place
        columns = (owner[chosen], spot[chosen], metric[chosen], agreement[chosen])
        return _settle(*columns, images * objects, scores.shape[:2])


def _settle(
    owner: Tensor, spot: Tensor, metric: Tensor, agreement: Tensor, objects: int, shape: torch.Size
) -> Assignment:
    """Give each spot to one of the owners that chose it, and say what its score should be.

    Args:
        owner: A number for the object that chose, [F].
        spot: A number for the point that it chose, [F].
        metric: Of the pair, above 0, [F].
        agreement: The overlap of the pair, [F].
        objects: How many owners there are in the batch.
        shape: Of the points of the batch, N and P.
    """
    most = _largest(spot, agreement, shape.numel())
    ahead = agreement == most[spot]
    winner = owner.new_full([shape.numel()], objects)  # of those that overlap most the first
    winner = winner.scatter_reduce(0, spot[ahead], owner[ahead], "amin")
    won = winner[spot] == owner
    owner, spot, metric, agreement = owner[won], spot[won], metric[won], agreement[won]
    top, best = (_largest(owner, values, objects)[owner] for values in (metric, agreement))
    quality = metric.new_zeros(shape.numel()).index_put((spot,), metric / top * best)
    mine = winner.remainder(objects // shape[0]).where(winner < objects, -1)
    return Assignment(mine.view(shape), quality.view(shape))


def _largest(where: Tensor, values: Tensor, count: int) -> Tensor:
    """Return the largest of the values that are at least 0, by where they belong, [count]."""
    return values.new_zeros(count).scatter_reduce(0, where, values, "amax")


def _enlarged(boxes: Tensor, least: float) -> Tensor:
    """Return boxes whose sides are at least so long, around the same centres."""
    centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    short = half < least / 2  # [...,2]: the width, the height
    grown = torch.cat([centre - least / 2, centre + least / 2], -1)
    return torch.where(torch.cat([short, short], -1), grown, boxes)


def inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Tell whether points [P,2] lie strictly inside boxes [N,G,4]: [N,G,P]."""
    x, y = points.unbind(-1)
    x1, y1, x2, y2 = boxes[..., None].unbind(-2)  # [N,G,1]
    return (x > x1) & (x < x2) & (y > y1) & (y < y2)


def _first_best(values: Tensor, count: int) -> Tensor:
    """Mark the highest values along the last axis; of equal ones the first, on every device."""
    count = min(count, values.shape[-1])
    least = values.topk(count, -1).values[..., -1:]
    above, equal = values > least, values == least
    room = count - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= room))
