"""Say how wrong a YOLOv5 is: boxes, objectness, classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from labs.assigners.multi_anchor import MultiAnchor
from labs.boxes.anchored import split_anchors
from labs.boxes.anchors import Anchors
from labs.criteria.anchored import Weights, anchored_terms
from labs.criteria.outputs import Outputs
from labs.models.yolo_v5 import COCO_ANCHORS


@dataclass(frozen=True, eq=False)
class YOLOv5Criterion:
    """Return the terms of the loss: ``box``, ``objectness``, ``class``.

    - ``box``: the mean of 1 - CIoU over the places that :class:`~labs.assigners.MultiAnchor` pairs
      with an object.
    - ``objectness``: cross entropy at all places. The target is the CIoU that the place's box has
      now (0 if negative), and 0 where nothing is paired; where two objects meet, the higher.
    - ``class``: cross entropy at the paired places, each class on its own.

    Each is a mean per level, summed over the levels. The weights are those of the original for 80
    classes and images of 640 pixels; it multiplies the objectness by the share of the images' area
    (side/640)**2, the class weight by C/80, both by 3/levels, and the sum by the batch size, which
    is left out here. The terms are computed in float32, even where the forward pass was in less.

    Attributes:
        anchors: Width and height in pixels, level by level: [L,A,2].
        strides: Of the levels, finest first; the network's.
        box_weight: Of ``box``.
        objectness_weight: Of ``objectness``.
        class_weight: Of ``class``.
        balance: Of the objectness of each level.
        smoothing: How far the targets of the classes move towards 0.5, in [0, 1).
        ratio: How many times larger or smaller than an object its anchors may be.
        neighbours: Whether the two nearest cells answer as well.
        num_classes: C, to refuse a network of another number; None takes what the channels leave.

    Raises:
        ValueError: When anchors, strides and balance do not have as many levels.
    """

    anchors: Anchors = COCO_ANCHORS
    strides: Sequence[int] = (8, 16, 32)
    box_weight: float = 0.05
    objectness_weight: float = 1.0
    class_weight: float = 0.5
    balance: Sequence[float] = (4.0, 1.0, 0.4)
    smoothing: float = 0.0
    ratio: float = 4.0
    neighbours: bool = True
    num_classes: int | None = None

    def __post_init__(self) -> None:
        self.assigner()  # refuses anchors and strides that do not fit
        refuse_levels("YOLOv5Criterion", self.strides, self.balance)

    def assigner(self) -> MultiAnchor:
        """Return the rule that pairs places with objects."""
        return MultiAnchor(self.anchors, self.strides, self.ratio, self.neighbours)

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
        return anchored_terms(
            maps, truths, pairs, self.anchors, self.strides, weights, self.smoothing
        )


def refuse_levels(name: str, strides: Sequence[int], balance: Sequence[float]) -> None:
    """Raise ValueError unless there is a balance for each stride."""
    if len(strides) != len(balance):
        raise ValueError(
            f"{name}: expected a balance for each of the strides {tuple(strides)}, got "
            f"{tuple(balance)}; such as balance=(4.0, 1.0) for two levels"
        )
