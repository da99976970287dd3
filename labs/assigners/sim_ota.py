"""Let the predictions compete for the objects, as YOLOX and YOLOv7 do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from labs.assigners.pairs import Pairs
from labs.assigners.truths import Truths
from labs.boxes.anchored import decode_anchored
from labs.boxes.anchors import Anchors
from labs.boxes.overlap import overlap

Candidates = Callable[[Sequence[Tensor], Truths], Pairs]


@dataclass(frozen=True, eq=False)
class SimOTA:
    """Give each object the predictions that already serve it best, as many as serve it well.

    The assignment is the approximation that YOLOX (Ge et al. 2021, arXiv:2107.08430) makes of
    optimal transport (OTA, Ge et al. 2021, arXiv:2103.14259), with YOLOv7's cost:

    1. Candidates are all places that another rule proposes for any object of the image, each
       once. (YOLOv7's program lists a place as often as objects proposed it; the copies fill each
       other's places among the k cheapest and are counted again in the sum of IoUs.)
    2. The cost of a pair is :func:`class_cost` plus ``box_cost`` times -log IoU.
    3. An object may have k places: the sum of its ``top`` highest IoUs, rounded down, at least 1.
    4. It takes the k cheapest. A place that several objects took goes to the one it costs least.

    There is no centre prior but that of the candidates: the programs of YOLOX add a cost where a
    place is far from the centre, YOLOv7's does not. An object for which no candidate was proposed
    in its image gets none.

    Attributes:
        candidates: ``candidates(maps, truths)`` proposes places, such as a
            :class:`~labs.assigners.MultiAnchor`.
        anchors: Width and height in pixels, level by level: [L,A,2].
        strides: Pixels per cell, level by level.
        box_cost: Weight of -log IoU in the cost.
        top: How many IoUs are summed; no object gets more places.
    """

    candidates: Candidates
    anchors: Anchors
    strides: Sequence[int]
    box_cost: float = 3.0
    top: int = 10

    @torch.no_grad()
    def __call__(self, maps: Sequence[Tensor], truths: Truths) -> Pairs:
        """Pair the objects of a batch with places; no place answers for two.

        Args:
            maps: What the network says, one map per level, [N,A,H,W,5+C].
            truths: The objects.
        """
        places = _distinct(self.candidates(maps, truths))
        answers, boxes = self._predictions(maps, places)
        foreign = truths.image[:, None] != places.image  # [T,P]: in another image
        iou = overlap(truths.boxes[:, None], boxes).masked_fill(foreign, 0.0)
        cost = class_cost(answers, truths.labels) - self.box_cost * iou.clamp(min=1e-8).log()
        truth, place = _choose(iou, cost.masked_fill(foreign, torch.inf), self.top)
        return replace(places[place], truth=truth)

    def _predictions(self, maps: Sequence[Tensor], places: Pairs) -> tuple[Tensor, Tensor]:
        """Return objectness and classes at the places, [P,1+C], and the boxes there, [P,4]."""
        answers, boxes = [], []
        for level, (answer, stride) in enumerate(zip(maps, self.strides, strict=True)):
            here = places[places.level == level]  # places lie level after level
            anchors = torch.as_tensor(self.anchors[level]).to(answer)[here.anchor]
            chosen = answer[here.places]
            boxes.append(decode_anchored(chosen[:, :4], here.corners, anchors, stride))
            answers.append(chosen[:, 4:])
        return torch.cat(answers), torch.cat(boxes)


def _distinct(pairs: Pairs) -> Pairs:
    """Return each place once, in the order of levels, with the lowest of its objects."""
    rows = torch.stack(pairs.columns, 1).unique(dim=0)  # sorted
    first = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    first[1:] = (rows[1:, :-1] != rows[:-1, :-1]).any(1)
    return Pairs(*rows[first].unbind(1))


def class_cost(answers: Tensor, labels: Tensor) -> Tensor:
    """Return what it costs to call each prediction by each object's label, [T,P].

    It is the binary cross entropy, summed over the classes, of sqrt(objectness * class) against
    "this class and no other".

    Args:
        answers: Logits of objectness and classes, [P,1+C].
        labels: Of the objects, [T].
    """
    p = (answers[:, :1].sigmoid() * answers[:, 1:].sigmoid()).sqrt().clamp(1e-6, 1 - 1e-6)
    no = -torch.log1p(-p)  # what each class costs where it is not the label, [P,C]
    # Not [T,P,C]: all classes as if none were the label, and the label's own put right.
    return no.sum(1) + (-p.log() - no)[:, labels].T


def _choose(iou: Tensor, cost: Tensor, top: int = 10) -> tuple[Tensor, Tensor]:
    """Choose the k cheapest places of each object, and let no place serve two.

    Args:
        iou: Of objects and predictions, [T,P]; 0 where a pair is out of the question.
        cost: Of each pair, [T,P]; infinite where it is out of the question.
        top: How many IoUs are summed to give k.

    Returns:
        Indices of objects and of places, [m] each.
    """
    top = min(top, iou.shape[1])
    count = iou.topk(top, dim=1).values.sum(1).int().clamp(min=1)  # k, at most top
    cheapest = cost.topk(top, dim=1, largest=False).indices  # [T,top]
    within = torch.arange(top, device=cost.device) < count[:, None]
    taken = torch.zeros_like(cost, dtype=torch.bool).scatter(1, cheapest, within)
    wanted = cost.masked_fill(~taken, torch.inf)
    if len(cost):  # one object a place: the cheapest of those that took it
        best = torch.zeros_like(taken).scatter(0, wanted.argmin(0, keepdim=True), True)
        taken = best & wanted.isfinite()
    truth, place = taken.nonzero(as_tuple=True)
    return truth, place
