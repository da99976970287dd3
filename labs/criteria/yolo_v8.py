"""Say how wrong a YOLOv8 is: classes, boxes, and the distributions of their sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pad_sequence

from labs.assigners import TaskAligned
from labs.boxes.levels import flatten_levels
from labs.boxes.overlap import overlap
from labs.boxes.sides import distribution_focal_loss, expected_side, from_sides, to_sides


@dataclass(frozen=True)
class YOLOv8Criterion:
    """Return the terms of the loss: ``class``, ``box``, ``dfl``.

    Every term is summed over the batch and divided by the sum of the qualities that the assigner
    asks for, so that neither images nor objects nor cells change the scale. The forward pass may
    run in half precision; the terms are computed in float32.

    Attributes:
        num_classes: C.
        strides: Of the levels, finest first; the network's.
        reg_max: Bins of the distribution of a side; the network's.
        assigner: Chooses which cells answer for an object.
        class_weight: Of the binary cross entropy of all cells and classes.
        box_weight: Of 1 - CIoU of the chosen cells.
        dfl_weight: Of the distribution focal loss of the chosen cells.
    """

    num_classes: int = 80
    strides: Sequence[int] = (8, 16, 32)
    reg_max: int = 16
    assigner: TaskAligned = field(default_factory=TaskAligned)
    class_weight: float = 0.5
    box_weight: float = 7.5
    dfl_weight: float = 1.5

    def __call__(
        self, raw: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compare raw outputs with targets: ``boxes`` [n,4] xyxy in pixels, ``labels`` [n].

        Args:
            raw: From the network, one map per level.
            targets: One dict per image, on the device of the maps.
        """
        values, points, cells = flatten_levels(raw[: len(self.strides)], self.strides)
        values = values.float()
        bins = values[..., : 4 * self.reg_max].unflatten(-1, (4, self.reg_max))  # [N,P,4,R]
        classes = values[..., 4 * self.reg_max :][..., : self.num_classes]  # [N,P,C]
        boxes = from_sides(expected_side(bins) * cells, points)  # [N,P,4]
        object_boxes, object_labels, exists = pad(targets)
        found = self.assigner(classes.sigmoid(), boxes, points, object_boxes, object_labels, exists)
        image, place = (found.objects >= 0).nonzero(as_tuple=True)  # [F] each
        mine = found.objects[image, place]
        quality = found.quality[image, place]
        total = found.quality.sum().clamp(min=1)
        wanted = torch.zeros_like(classes)
        wanted[image, place, object_labels[image, mine]] = quality
        true = object_boxes[image, mine]
        sides = to_sides(true, points[place]) / cells[place]
        agreement = overlap(boxes[image, place], true, "ciou")
        spread = distribution_focal_loss(bins[image, place], sides).mean(-1)
        wrong = binary_cross_entropy_with_logits(classes, wanted, reduction="sum")
        return {
            "class": self.class_weight * wrong / total,
            "box": self.box_weight * ((1 - agreement) * quality).sum() / total,
            "dfl": self.dfl_weight * (spread * quality).sum() / total,
        }


def pad(targets: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Stack the objects of a batch: boxes [N,G,4], labels [N,G], and which exist [N,G]."""
    boxes = pad_sequence([target["boxes"].float() for target in targets], batch_first=True)
    labels = pad_sequence([target["labels"] for target in targets], True, padding_value=-1)
    exists = labels >= 0
    return boxes, labels.clamp(min=0), exists
