"""Say how wrong a YOLOv8 is: classes, boxes, the distributions of their sides, and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, pad
from torch.nn.utils.rnn import pad_sequence

from labs.assigners import TaskAligned
from labs.boxes.overlap import overlap
from labs.boxes.sides import distribution_focal_loss, to_sides
from labs.ddp import mean_over_ranks
from labs.postprocess.yolo_v8 import Decoded, decode, within

Target = Mapping[str, Tensor]


@dataclass(frozen=True)
class YOLOv8Criterion:
    """Return the terms of the loss: ``class``, ``box``, ``dfl``, and ``mask`` if there are masks.

    The first three are summed over the batch and divided by the sum of the qualities that the
    assigner asks for, so that neither images nor objects nor cells change the scale. Ranks that
    share a batch divide by the mean of their sums: the gradient is that of one process. The network
    may run in half precision; the terms are computed in float32.

    Attributes:
        num_classes: C.
        strides: Of the levels, finest first; the network's.
        reg_max: Bins of the distribution of a side; the network's.
        assigner: Chooses which cells answer for an object.
        class_weight: Of the binary cross entropy of all cells and classes.
        box_weight: Of 1 - CIoU of the chosen cells.
        dfl_weight: Of the distribution focal loss of the chosen cells, averaged over four sides.
        mask_weight: Of the binary cross entropy of the chosen cells' masks, averaged over each
            object's box and then over the chosen cells.
    """

    num_classes: int = 80
    strides: Sequence[int] = (8, 16, 32)
    reg_max: int = 16
    assigner: TaskAligned = field(default_factory=TaskAligned)
    class_weight: float = 0.5
    box_weight: float = 7.5
    dfl_weight: float = 1.5
    mask_weight: float = 7.5

    def __call__(self, raw: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Compare raw outputs with targets.

        Args:
            raw: From the network: one map per level, and prototypes if it has masks.
            targets: One dict per image, on the device of the maps: ``boxes`` [n,4] xyxy in pixels,
                ``labels`` [n], and for a network with masks ``masks`` [n,H,W], bool.
        """
        decoded = decode(raw, self.num_classes, self.strides, self.reg_max)
        boxes, labels, exists = stack_objects(targets)
        scores = decoded.classes.sigmoid()
        found = self.assigner(scores, decoded.boxes, decoded.points, boxes, labels, exists)
        image, place = (found.objects >= 0).nonzero(as_tuple=True)  # [F] chosen cells
        mine, quality = found.objects[image, place], found.quality[image, place]
        total = mean_over_ranks(quality.sum()).clamp(min=1)
        wanted = torch.zeros_like(scores)
        wanted[image, place, labels[image, mine]] = quality
        wrong = binary_cross_entropy_with_logits(decoded.classes, wanted, reduction="sum")
        box, dfl = self._localise(decoded, image, place, boxes[image, mine])
        terms = {
            "class": self.class_weight * wrong / total,
            "box": self.box_weight * (box * quality).sum() / total,
            "dfl": self.dfl_weight * (dfl * quality).sum() / total,
        }
        for prototypes in raw[len(self.strides) :]:
            mixing = decoded.mixing[image, place]
            chosen = [(mixing[image == i], mine[image == i]) for i in range(len(targets))]
            terms["mask"] = self.mask_weight * self._draw(prototypes.float(), chosen, targets)
        return terms

    def _localise(
        self, decoded: Decoded, image: Tensor, place: Tensor, true: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return 1 - CIoU and the focal loss of the sides of each chosen cell, [F] each."""
        box = 1 - overlap(decoded.boxes[image, place], true, "ciou")
        sides = to_sides(true, decoded.points[place]) / decoded.cells[place]
        return box, distribution_focal_loss(decoded.bins[image, place], sides).mean(-1)

    def _draw(
        self,
        prototypes: Tensor,
        chosen: Sequence[tuple[Tensor, Tensor]],
        targets: Sequence[Target],
    ) -> Tensor:
        """Return the mean over the chosen cells of all images, each with (mixing, object)."""
        # One image at a time: prototypes gathered for each cell would fill gigabytes.
        wrong = [
            mask_loss(torch.einsum("fm,mhw->fhw", mixing, shapes), target, mine, self.strides[0])
            for shapes, (mixing, mine), target in zip(prototypes, chosen, targets, strict=True)
        ]
        every = torch.cat(wrong)
        # Zero without objects, but still a function of the prototypes: they get a gradient of 0.
        return every.sum() / max(len(every), 1) + 0 * prototypes.sum()


def mask_loss(logits: Tensor, target: Target, mine: Tensor, finest: int) -> Tensor:
    """Return the cross entropy of each mask, averaged over its object's box: [F].

    Args:
        logits: Of masks at half the finest stride, [F,h,w].
        target: Of the image, with ``masks`` [n,H,W] and ``boxes`` [n,4].
        mine: Which object each mask is of, [F].
        finest: The finest stride, in pixels.
    """
    height, width = logits.shape[1:]
    stride = finest // 2
    masks = target["masks"][:, None].to(logits.dtype)  # [n,1,H,W]
    below, right = height * stride - masks.shape[2], width * stride - masks.shape[3]
    # The share of each cell that the object covers; the image ends before the last cell does.
    share = avg_pool2d(pad(masks, (0, right, 0, below)), stride)[:, 0]
    inside = within(target["boxes"].to(logits.dtype), height, width, stride)
    wrong = binary_cross_entropy_with_logits(logits, share[mine], reduction="none")
    inside = inside[mine]
    return (wrong * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)


def stack_objects(targets: Sequence[Target]) -> tuple[Tensor, Tensor, Tensor]:
    """Stack the objects of a batch: boxes [N,G,4], labels [N,G], and which exist, [N,G]."""
    boxes = pad_sequence([target["boxes"].float() for target in targets], batch_first=True)
    labels = pad_sequence([target["labels"] for target in targets], True, padding_value=-1)
    return boxes, labels.clamp(min=0), labels >= 0
