"""Say how wrong YOLO v3 is; with a box loss of the IoU family and smoothed labels, v4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot, softplus

from labs.assigners.best_anchor import BestAnchor
from labs.boxes import KINDS, overlap
from labs.boxes.anchors import Anchors
from labs.boxes.precision import widen
from labs.criteria.outputs import Outputs
from labs.models.yolo_v3 import V3_ANCHORS
from labs.postprocess.yolo_v3 import decode_anchors, flatten_anchors, lay_anchors


@dataclass(frozen=True)
class YOLOv3Criterion:
    """Compute the loss of Redmon and Farhadi 2018, section 2, per image (the mean over the batch).

    - ``centre`` and ``size``, with ``box="squared"``: see :meth:`squared`.
    - ``box``, with any other: 1 minus the overlap of the decoded box and the object.
    - ``objectness``: cross entropy with 1, for the predictions that answer for an object.
    - ``no_object``: cross entropy with 0, for the others, but for those that are ignored.
    - ``classes``: cross entropy of each class by itself, for those that answer for an object.

    Attributes:
        anchors: Per level, finest first, widths and heights in pixels.
        strides: Of the levels.
        ignore: As for :class:`labs.assigners.BestAnchor`; 0.5 in v3, 0.7 in v4.
        box: ``"squared"`` as in v3, or a kind of :func:`labs.boxes.overlap`, ``"ciou"`` in v4.
        box_weight: Of the terms of the box; 0.07 in v4.
        smoothing: Draws the targets of the classes from 0 and 1 this share of the way to 1/2.
        stretch: As for :func:`labs.postprocess.yolo_v3.decode_anchors`.
        num_classes: C, to refuse a network of another number; None takes what the channels leave.
    """

    anchors: Anchors = V3_ANCHORS
    strides: Sequence[int] = (8, 16, 32)
    ignore: float = 0.5
    box: str = "squared"
    box_weight: float = 1.0
    smoothing: float = 0.0
    stretch: float = 1.0
    num_classes: int | None = None

    def __post_init__(self) -> None:
        if self.box not in ("squared", *KINDS):
            raise ValueError(
                f"YOLOv3Criterion: expected box 'squared' or {', '.join(KINDS)}, got {self.box!r}"
            )

    def __call__(
        self, raw: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the weighted terms, scalars whose sum is the loss.

        Args:
            raw: Per level [N,A*(5+C),H,W].
            targets: Of each image ``boxes`` [n,4], xyxy in pixels, and ``labels`` [n], on any
                device; n may be 0.

        Raises:
            ValueError: When outputs, settings and targets do not belong together.
        """
        outputs = Outputs.at_anchors(
            type(self).__name__, self.anchors, self.strides, self.num_classes
        )
        truths = outputs.truths(raw, targets)
        raw = [widen(level) for level in raw]
        values, places = flatten_anchors(raw, self.anchors), self.lay(raw)  # [N,P,5+C], [P,5]
        image, boxes, labels = truths.image, truths.boxes, truths.labels
        assigner = BestAnchor(self.anchors, self.strides, self.ignore)
        found = assigner(boxes, image, [(level.shape[2], level.shape[3]) for level in raw])
        mine = values[found.image, found.place]  # [m,5+C]
        truth, here = boxes[found.target], places[found.place]

        decoded = decode_anchors(values[..., :4].detach(), places, self.stretch)
        background = ~assigner.ignored(decoded, boxes, image)
        background[found.image, found.place] = False
        kinds = one_hot(labels[found.target], values.shape[-1] - 5).to(values)
        kinds = kinds + self.smoothing * (0.5 - kinds)
        if self.box == "squared":
            rows, columns = raw[0].shape[2:]
            canvas = boxes.new_tensor([columns, rows]) * self.strides[0]
            terms = self.squared(mine, truth, here, canvas)
        else:
            boxes_now = decode_anchors(mine[:, :4], here, self.stretch)
            terms = {"box": (1 - overlap(boxes_now, truth, self.box)).sum()}
        terms = {name: self.box_weight * term for name, term in terms.items()}
        terms["objectness"] = _cross_entropy(mine[:, 4], torch.ones_like(mine[:, 4]))
        terms["no_object"] = (background * softplus(values[..., 4])).sum()
        terms["classes"] = _cross_entropy(mine[:, 5:], kinds)
        return {name: term / len(values) for name, term in terms.items()}

    def squared(
        self, mine: Tensor, truth: Tensor, here: Tensor, canvas: Tensor
    ) -> dict[str, Tensor]:
        """Return the box terms of v3.

        The paper names a sum of squared errors, and a gradient: prediction minus truth. For x and y
        its program takes that difference *after* the sigmoid and hands it on as the gradient
        *before* it, which is what cross entropy has; so ``centre`` is a cross entropy, and its
        least value is not 0. For w and h the gradient is that of half a squared difference.

        Each object is weighted by 2 - w*h, in sides of the image, as in that program: nearly 2 for
        a small one, 1 for one that fills the image. Where the object lies changes nothing. One that
        reaches beyond the image weighs no less than one that fills it.

        Args:
            mine: What the network says, [m,5+C].
            truth: xyxy in pixels, [m,4].
            here: Corner, anchor and stride of each, in pixels, [m,5].
            canvas: Width and height of the image in pixels, [2].
        """
        size = truth[:, 2:] - truth[:, :2]
        weight = 2 - (size / canvas).prod(1, keepdim=True).clamp(max=1)  # [m,1]
        inside = ((truth[:, :2] + truth[:, 2:]) / 2 - here[:, :2]) / here[:, 4:]
        inside = (inside + (self.stretch - 1) / 2) / self.stretch
        factor = (size.clamp(min=1e-3) / here[:, 2:4]).log()  # a box of no size has no logarithm
        return {
            "centre": _cross_entropy(mine[:, :2], inside.clamp(0, 1), weight),
            "size": (weight * (mine[:, 2:4] - factor).square() / 2).sum(),
        }

    def lay(self, raw: Sequence[Tensor]) -> Tensor:
        """Return corner, anchor and stride of each prediction in pixels, [P,5]."""
        return lay_anchors(raw, self.anchors, self.strides)


def _cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the summed cross entropy of independent yes-or-no questions, a scalar."""
    return binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
