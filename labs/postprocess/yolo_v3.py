"""Turn the maps of YOLO v3, and of v4, into boxes and scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labs.boxes import cell_corners, suppress, widen
from labs.boxes.anchors import Anchors
from labs.models.yolo_v3 import V3_ANCHORS

_LARGEST = 10.0  # of w and h before the exponential: a factor of 22,026


def flatten_anchors(raw: Sequence[Tensor], anchors: Anchors) -> Tensor:
    """Return all predictions in one list, by level, anchor, row, column: [N,P,5+C].

    Args:
        raw: Per level [N,A*(5+C),H,W].
        anchors: Per level, A widths and heights.
    """
    levels = [
        level.unflatten(1, (len(shapes), -1)).flatten(3).transpose(2, 3).flatten(1, 2)
        for level, shapes in zip(raw, anchors, strict=True)  # [N,A,5+C,H*W] -> [N,A*H*W,5+C]
    ]
    return torch.cat(levels, 1)


def lay_anchors(raw: Sequence[Tensor], anchors: Anchors, strides: Sequence[int]) -> Tensor:
    """Return, for each prediction, its cell's corner x and y, its anchor's size, its stride: [P,5].

    All in pixels, in the order of :func:`flatten_anchors`.
    """
    levels = []
    for level, shapes, stride in zip(raw, anchors, strides, strict=True):
        rows, columns = level.shape[2:]
        corners = cell_corners(rows, columns, like=level).view(1, -1, 2) * stride  # [1,H*W,2]
        sizes = torch.tensor(shapes, dtype=level.dtype, device=level.device).view(-1, 1, 2)
        cells = (len(shapes), rows * columns, -1)
        parts = [corners.expand(cells), sizes.expand(cells)]
        whole = torch.cat([*parts, torch.full_like(parts[0][..., :1], stride)], -1)
        levels.append(whole.flatten(0, 1))
    return torch.cat(levels)


def decode_anchors(values: Tensor, places: Tensor, stretch: float = 1.0) -> Tensor:
    """Return boxes, xyxy in pixels, [...,4].

    The centre is the cell's corner plus the sigmoid of x and y, in cells; the size is the anchor's
    times the exponential of w and h (Redmon and Farhadi 2017, section 2, "direct location
    prediction").

    Args:
        values: x, y, w, h as the network says them, [...,4].
        places: As :func:`lay_anchors` returns them, [...,5].
        stretch: Lets the centre range over this many cells instead of one, so that the borders of
            the cell can be reached ("eliminate grid sensitivity" in v4, 1.05 to 1.2 there).
    """
    inside = values[..., :2].sigmoid() * stretch - (stretch - 1) / 2
    centre = places[..., :2] + inside * places[..., 4:]
    half = places[..., 2:4] * values[..., 2:4].clamp(max=_LARGEST).exp() / 2
    return torch.cat([centre - half, centre + half], -1)


class YOLOv3Postprocess(nn.Module):
    """Decode, score and suppress; without parameters.

    The score of a class is objectness times the class's own sigmoid: classes do not compete, and a
    box may be of several.

    Args:
        anchors: Per level, finest first, widths and heights in pixels.
        strides: Of the levels.
        stretch: As for :func:`decode_anchors`.
        score_threshold: As for :func:`labs.boxes.suppress`.
        iou_threshold: As for :func:`labs.boxes.suppress`.
        max_detections: As for :func:`labs.boxes.suppress`.
    """

    def __init__(
        self,
        anchors: Anchors = V3_ANCHORS,
        strides: Sequence[int] = (8, 16, 32),
        stretch: float = 1.0,
        *,
        score_threshold: float = 0.001,
        iou_threshold: float = 0.6,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.anchors, self.strides, self.stretch = anchors, strides, stretch
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.max_detections = max_detections

    def candidates(self, raw: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return all boxes [N,P,4], xyxy in pixels, and scores [N,P,C]."""
        raw = [widen(level) for level in raw]
        values = flatten_anchors(raw, self.anchors)
        places = lay_anchors(raw, self.anchors, self.strides)
        boxes = decode_anchors(values[..., :4], places, self.stretch)
        return boxes, values[..., 4:5].sigmoid() * values[..., 5:].sigmoid()

    def forward(self, raw: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Return per image ``boxes`` [n,4], ``scores`` [n], highest first, and ``labels`` [n]."""
        boxes, scores = self.candidates(raw)
        return suppress(
            boxes, scores, self.score_threshold, self.iou_threshold, self.max_detections
        )
