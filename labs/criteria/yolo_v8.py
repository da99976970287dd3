"""Say how wrong a YOLOv8 is: classes, boxes, the distributions of their sides, and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from labs.assigners import TaskAligned
from labs.assigners.targets import Target
from labs.assigners.truths import Truths
from labs.boxes.overlap import overlap
from labs.boxes.sides import distribution_focal_loss, to_sides
from labs.criteria.masks import check_prototypes, mean_mask_loss
from labs.criteria.outputs import Outputs
from labs.ddp import mean_over_ranks
from labs.postprocess.yolo_v8 import Decoded, decode


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
            targets: One dict per image, on any device: ``boxes`` [n,4] xyxy in pixels, ``labels``
                [n], and for a network with masks ``masks`` [n,H,W], bool.

        Raises:
            ValueError: When outputs, settings and targets do not belong together.
        """
        truths = self._checked(raw, targets)
        decoded = decode(raw, self.num_classes, self.strides, self.reg_max)
        boxes, labels, exists = truths.padded(len(targets))
        scores = decoded.classes.detach().sigmoid()
        found = self.assigner(scores, decoded.boxes, decoded.points, boxes, labels, exists)
        image, place = (found.objects >= 0).nonzero(as_tuple=True)  # [F] chosen cells
        mine, quality = found.objects[image, place], found.quality[image, place]
        total = mean_over_ranks(quality.sum()).clamp(min=1)
        # Nearly all answers should be 0, where the cross entropy is the softplus of the logit.
        wrong, asked = softplus(decoded.classes), (image, place, labels[image, mine])
        right = binary_cross_entropy_with_logits(decoded.classes[asked], quality, reduction="none")
        wrong = wrong.index_put_(asked, right).sum()
        box, dfl = self._localise(decoded, image, place, boxes[image, mine])
        terms = {
            "class": self.class_weight * wrong / total,
            "box": self.box_weight * (box * quality).sum() / total,
            "dfl": self.dfl_weight * (dfl * quality).sum() / total,
        }
        for prototypes in raw[len(self.strides) :]:
            mixing = decoded.mixing[image, place]
            chosen = [(mixing[image == i], mine[image == i]) for i in range(len(targets))]
            stride = self.strides[0] // 2
            mask = mean_mask_loss(prototypes.float(), chosen, targets, boxes, stride)
            terms["mask"] = self.mask_weight * mask
        return terms

    def _checked(self, raw: Sequence[Tensor], targets: Sequence[Target]) -> Truths:
        """Return the objects in float32; refuse what cannot belong together."""
        who, levels = type(self).__name__, len(self.strides)
        maps, prototypes = raw[:levels], raw[levels:]
        mixing = sum(shapes.shape[1] for shapes in prototypes)
        fixed = 4 * self.reg_max + mixing
        made_of = f"4 * reg_max + C = 4 * {self.reg_max} + {self.num_classes}"
        made_of += f" and {mixing} coefficients of prototypes" if mixing else ""
        outputs = Outputs(who, self.strides, [1] * levels, fixed, self.num_classes, made_of)
        truths = outputs.truths(maps, targets)
        check_prototypes(who, prototypes, maps[0], self.strides[0], targets)
        return truths

    def _localise(
        self, decoded: Decoded, image: Tensor, place: Tensor, true: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return 1 - CIoU and the focal loss of the sides of each chosen cell, [F] each."""
        box = 1 - overlap(decoded.boxes[image, place], true, "ciou")
        sides = to_sides(true, decoded.points[place]) / decoded.cells[place]
        return box, distribution_focal_loss(decoded.bins[image, place], sides).mean(-1)


def stack_objects(targets: Sequence[Target]) -> tuple[Tensor, Tensor, Tensor]:
    """Stack the objects of a batch: boxes [N,G,4], labels [N,G], and which exist, [N,G].

    Raises:
        ValueError: When a target cannot be true, see :mod:`labs.assigners.targets`.
    """
    device = next((target["boxes"].device for target in targets if "boxes" in target), None)
    like = torch.zeros((), device=device)
    return Truths.of(targets, like, who="stack_objects").padded(len(targets))
