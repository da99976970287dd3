"""Say how wrong the answers at anchors are: what the criteria of YOLOv5 and v7 have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import one_hot

from labs.assigners.pairs import Pairs
from labs.assigners.truths import Truths
from labs.boxes.anchored import decode_anchored
from labs.boxes.anchors import Anchors
from labs.boxes.overlap import overlap


@dataclass(frozen=True)
class Weights:
    """Hold how much each term counts, and how much each level's objectness.

    Attributes:
        box: Of 1 - CIoU.
        objectness: Of the cross entropy of "is there an object".
        classes: Of the cross entropy of each class.
        balance: Of the objectness of each level, finest first. A fine map has many cells and few
            of them hold an object, so its mean error is small.
    """

    box: float
    objectness: float
    classes: float
    balance: Sequence[float]


def anchored_terms(
    maps: Sequence[Tensor],
    truths: Truths,
    pairs: Pairs,
    anchors: Anchors,
    strides: Sequence[int],
    weights: Weights,
    smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """Return ``box``, ``objectness`` and ``class``, each the weighted sum of its levels' means.

    Args:
        maps: What the network says, one map per level, [N,A,H,W,5+C].
        truths: The objects of the batch.
        pairs: Which place answers for which object.
        anchors: Width and height in pixels, level by level: [L,A,2].
        strides: Pixels per cell, level by level.
        weights: Of the terms.
        smoothing: How far the targets of the classes move from 0 and 1 towards 0.5, in [0, 1).
    """
    levels = []
    for level, (answers, stride) in enumerate(zip(maps, strides, strict=True)):
        shapes = torch.as_tensor(anchors[level]).to(answers)
        here = pairs[pairs.level == level]
        levels.append(_level_terms(answers, truths, here, shapes, stride, smoothing))
    box, objectness, classes = (torch.stack(terms) for terms in zip(*levels, strict=True))
    return {
        "box": weights.box * box.sum(),
        "objectness": weights.objectness * (objectness * box.new_tensor(weights.balance)).sum(),
        "class": weights.classes * classes.sum(),
    }


def _level_terms(
    answers: Tensor, truths: Truths, pairs: Pairs, anchors: Tensor, stride: int, smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the means of 1 - CIoU, and of both cross entropies; 0 where nothing is paired."""
    chosen = answers[pairs.places]  # [m,5+C]
    boxes = decode_anchored(chosen[:, :4], pairs.corners, anchors[pairs.anchor], stride)
    agreement = overlap(boxes, truths.boxes[pairs.truth], "ciou")
    wanted = one_hot(truths.labels[pairs.truth], chosen.shape[1] - 5).to(chosen)
    wanted = wanted * (1 - smoothing) + smoothing / 2
    confidence = _best_by_place(answers[..., 4], pairs, agreement.detach().clamp(min=0))
    return (
        (1 - agreement).sum() / max(len(pairs), 1),
        cross_entropy(answers[..., 4], confidence),
        cross_entropy(chosen[:, 5:], wanted, reduction="sum") / max(wanted.numel(), 1),
    )


def _best_by_place(like: Tensor, pairs: Pairs, values: Tensor) -> Tensor:
    """Write values to their places of [N,A,H,W], the highest where several meet, elsewhere 0."""
    _, anchors, height, width = like.shape
    image, anchor, row, column = pairs.places
    place = ((image * anchors + anchor) * height + row) * width + column
    flat = like.new_zeros(like.numel()).scatter_reduce(0, place, values.to(like), "amax")
    return flat.view_as(like)
