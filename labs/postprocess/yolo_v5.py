"""Turn what YOLOv5 or v7 says at its anchors into detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labs.boxes.anchored import decode_anchored, split_anchors
from labs.boxes.anchors import Anchors
from labs.boxes.grid import cell_corners
from labs.boxes.suppression import suppress
from labs.models.yolo_v5 import COCO_ANCHORS


class YOLOv5Postprocess(nn.Module):
    """Decode raw outputs into detections; YOLOv7 says its boxes in the same way.

    Args:
        anchors: Width and height in pixels, level by level: [L,A,2].
        strides: Of the levels, finest first; the network's.
        score_threshold: Only higher scores count.
        iou_threshold: Overlap from which two boxes of a class claim the same object.
        max_detections: Most detections of an image.
    """

    anchors: Tensor

    def __init__(
        self,
        anchors: Anchors = COCO_ANCHORS,
        strides: Sequence[int] = (8, 16, 32),
        score_threshold: float = 0.001,
        iou_threshold: float = 0.6,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.register_buffer("anchors", torch.as_tensor(anchors).float(), persistent=False)
        self.strides = tuple(strides)
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.max_detections = max_detections

    def candidates(self, raw: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return a box and a score per class for every anchor of every cell: exportable.

        Args:
            raw: From the network, one map per level, [N, A*(5+C), H, W].

        Returns:
            Boxes, xyxy in pixels, [N,P,4], and objectness times class, in [0, 1], [N,P,C]; level
            after level, anchor after anchor, row after row.
        """
        boxes, scores = [], []
        for level, anchors, stride in zip(raw, self.anchors, self.strides, strict=True):
            answers = split_anchors(level, len(anchors))  # [N,A,H,W,5+C]
            corners = cell_corners(level.shape[2], level.shape[3], like=answers)
            shapes = anchors.to(answers)[:, None, None]  # [A,1,1,2]
            decoded = decode_anchored(answers[..., :4], corners, shapes, stride)
            boxes.append(decoded.flatten(1, 3))
            scores.append((answers[..., 4:5].sigmoid() * answers[..., 5:].sigmoid()).flatten(1, 3))
        return torch.cat(boxes, 1), torch.cat(scores, 1)

    def forward(self, raw: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Return ``boxes`` [n,4], ``scores`` [n], highest first, and ``labels`` [n] per image."""
        return suppress(
            *self.candidates(raw),
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            max_detections=self.max_detections,
        )
