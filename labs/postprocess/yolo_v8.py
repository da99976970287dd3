"""Turn what YOLOv8 says into boxes and scores."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from labs.boxes.levels import flatten_levels
from labs.boxes.sides import expected_side, from_sides
from labs.boxes.suppression import suppress


class YOLOv8Postprocess(nn.Module):
    """Decode raw outputs, then suppress what is found twice.

    Args:
        num_classes: C.
        strides: Of the levels, finest first; the network's.
        reg_max: Bins of the distribution of a side; the network's.
        score_threshold: As in :func:`labs.boxes.suppress`, and so are the others.
        iou_threshold: From which overlap two boxes claim the same object.
        max_detections: Of an image.
    """

    def __init__(
        self,
        num_classes: int = 80,
        strides: Sequence[int] = (8, 16, 32),
        reg_max: int = 16,
        *,
        score_threshold: float = 0.001,
        iou_threshold: float = 0.6,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.num_classes, self.strides, self.reg_max = num_classes, tuple(strides), reg_max
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.max_detections = max_detections

    def candidates(self, raw: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return boxes [N,P,4], xyxy in pixels, and scores [N,P,C] in [0, 1]; exportable."""
        values, points, cells = flatten_levels(raw[: len(self.strides)], self.strides)
        values = values.float()
        bins = values[..., : 4 * self.reg_max].unflatten(-1, (4, self.reg_max))
        boxes = from_sides(expected_side(bins) * cells, points)
        return boxes, values[..., 4 * self.reg_max :][..., : self.num_classes].sigmoid()

    def forward(self, raw: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Return for each image ``boxes`` [n,4], ``scores`` [n], highest first, ``labels`` [n]."""
        boxes, scores = self.candidates(raw)
        return suppress(
            boxes, scores, self.score_threshold, self.iou_threshold, self.max_detections
        )
