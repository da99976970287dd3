"""Turn the map of YOLO v1 into boxes and scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from labs.boxes import cell_corners, suppress, widen


def decode_cells(raw: Tensor, stride: int, boxes: int) -> Tensor:
    """Return the boxes of each cell, xyxy in pixels, [N,rows,columns,B,4].

    The network says x and y in cells from the cell's corner, and the square roots of width and
    height in sides of the image (Redmon et al. 2016, section 2.2).

    Args:
        raw: The map of :class:`labs.models.YOLOv1`, [N,B*5+C,rows,columns].
        stride: Side of a cell in pixels.
        boxes: Boxes per cell, B.
    """
    n, _, rows, columns = raw.shape
    values = raw[:, : boxes * 5].reshape(n, boxes, 5, rows, columns)
    x, y, root_width, root_height, _ = values.permute(0, 3, 4, 1, 2).unbind(-1)  # [N,rows,cols,B]
    corner = cell_corners(rows, columns, like=raw)[:, :, None]  # [rows,columns,1,2]
    centre = (torch.stack([x, y], -1) + corner) * stride
    half_width = root_width.square() * (columns * stride / 2)
    half_height = root_height.square() * (rows * stride / 2)
    half = torch.stack([half_width, half_height], -1)
    return torch.cat([centre - half, centre + half], -1)


class YOLOv1Postprocess(nn.Module):
    """Decode, score and suppress; without parameters.

    The score of a class is its probability, given that there is an object, times the confidence
    (equation 1 of the paper). Both are plain numbers, so each is brought into [0, 1] first.

    Args:
        stride: Side of a cell in pixels.
        boxes: Boxes per cell.
        score_threshold: As for :func:`labs.boxes.suppress`.
        iou_threshold: As for :func:`labs.boxes.suppress`.
        max_detections: As for :func:`labs.boxes.suppress`.
    """

    def __init__(
        self,
        stride: int = 64,
        boxes: int = 2,
        *,
        score_threshold: float = 0.001,
        iou_threshold: float = 0.6,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.stride, self.boxes = stride, boxes
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.max_detections = max_detections

    def candidates(self, raw: tuple[Tensor]) -> tuple[Tensor, Tensor]:
        """Return all boxes [N,P,4], xyxy in pixels, and scores [N,P,C]; P = rows*columns*B."""
        cells = widen(raw[0])
        boxes = decode_cells(cells, self.stride, self.boxes).flatten(1, 3)
        confidence = cells[:, 4 : self.boxes * 5 : 5].clamp(0, 1).movedim(1, -1)  # [N,rows,cols,B]
        classes = cells[:, self.boxes * 5 :].clamp(0, 1).movedim(1, -1)  # [N,rows,cols,C]
        scores = confidence[..., None] * classes[..., None, :]
        return boxes, scores.flatten(1, 3)

    def forward(self, raw: tuple[Tensor]) -> list[dict[str, Tensor]]:
        """Return per image ``boxes`` [n,4], ``scores`` [n], highest first, and ``labels`` [n]."""
        boxes, scores = self.candidates(raw)
        return suppress(
            boxes, scores, self.score_threshold, self.iou_threshold, self.max_detections
        )
