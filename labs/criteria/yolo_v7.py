"""Say how wrong a YOLOv7 is: v5's terms, at places that compete for the objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from labs.assigners.multi_anchor import MultiAnchor
from labs.assigners.sim_ota import SimOTA
from labs.boxes.anchored import split_anchors
from labs.boxes.anchors import Anchors
from labs.criteria.anchored import Weights, anchored_terms
from labs.criteria.outputs import Outputs
from labs.criteria.yolo_v5 import refuse_levels
from labs.models.yolo_v7 import COCO_ANCHORS


@dataclass(frozen=True, eq=False)
class YOLOv7Criterion:
    """Return the terms of the loss: ``box``, ``objectness``, ``class``.

    They are those of :class:`~labs.criteria.YOLOv5Criterion`, weighed a little differently, but
    :class:`~labs.assigners.SimOTA` chooses which of v5's places answer. The head without auxiliary
    heads is meant, as the paper's YOLOv7 has none.

    Attributes:
        anchors: Width and height in pixels, level by level: [L,A,2].
        strides: Of the levels, finest first; the network's.
        box_weight: Of ``box``.
        objectness_weight: Of ``objectness``.
        class_weight: Of ``class``.
        balance: Of the objectness of each level.
        ratio: How many times larger or smaller than an object its anchors may be.
        box_cost: What -log IoU counts where the assigner compares predictions.
        top: How many IoUs the assigner sums to say how many places an object gets.
        num_classes: C, to refuse a network of another number; None takes what the channels leave.

    Raises:
        ValueError: When anchors, strides and balance do not have as many levels.
    """

    anchors: Anchors = COCO_ANCHORS
    strides: Sequence[int] = (8, 16, 32)
    box_weight: float = 0.05
    objectness_weight: float = 0.7
    class_weight: float = 0.3
    balance: Sequence[float] = (4.0, 1.0, 0.4)
    ratio: float = 4.0
    box_cost: float = 3.0
    top: int = 10
    num_classes: int | None = None

    def __post_init__(self) -> None:
        self.assigner()  # refuses anchors and strides that do not fit
        refuse_levels("YOLOv7Criterion", self.strides, self.balance)

    def assigner(self) -> SimOTA:
        """Return the rule that pairs places with objects."""
        candidates = MultiAnchor(self.anchors, self.strides, self.ratio)
        return SimOTA(candidates, self.anchors, self.strides, self.box_cost, self.top)

    def __call__(
        self, raw: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compare raw outputs with targets: ``boxes`` [n,4] xyxy in pixels, ``labels`` [n].

        Args:
            raw: From the network, one map per level, [N, A*(5+C), H, W].
            targets: One dict per image, on any device.

        Raises:
            ValueError: When outputs, settings and targets do not belong together.
        """
        outputs = Outputs.at_anchors(
            type(self).__name__, self.anchors, self.strides, self.num_classes
        )
        truths = outputs.truths(raw, targets)
        maps = [split_anchors(level, len(self.anchors[0])) for level in raw]
        pairs = self.assigner()(maps, truths)
        weights = Weights(self.box_weight, self.objectness_weight, self.class_weight, self.balance)
        return anchored_terms(maps, truths, pairs, self.anchors, self.strides, weights)
