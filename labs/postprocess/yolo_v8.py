"""Turn what YOLOv8 says into boxes, scores and masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from labs.boxes.grid import cell_centres
from labs.boxes.levels import flatten_levels
from labs.boxes.sides import expected_side, from_sides
from labs.boxes.suppression import suppress


class Decoded(NamedTuple):
    """Hold what the raw output says at each of its P cells, all levels in one list, in float32.

    Attributes:
        boxes: xyxy in pixels, [N,P,4].
        classes: Logits, [N,P,C].
        bins: Logits of the distributions of l, t, r, b in cells, [N,P,4,reg_max].
        mixing: Coefficients of the prototypes, [N,P,M]; M is 0 without masks.
        points: Centres of the cells in pixels, [P,2].
        cells: Their sides in pixels, [P,1].
    """

    boxes: Tensor
    classes: Tensor
    bins: Tensor
    mixing: Tensor
    points: Tensor
    cells: Tensor


def decode(
    raw: Sequence[Tensor], num_classes: int, strides: Sequence[int], reg_max: int
) -> Decoded:
    """Read the raw output of a YOLOv8; arguments as for :class:`YOLOv8Postprocess`."""
    values, points, cells = flatten_levels(raw[: len(strides)], strides)
    values = values.float()  # a coordinate of 500 pixels has steps of 2 in bfloat16
    bins = values[..., : 4 * reg_max].unflatten(-1, (4, reg_max))
    classes = values[..., 4 * reg_max : 4 * reg_max + num_classes]
    boxes = from_sides(expected_side(bins) * cells, points)
    return Decoded(boxes, classes, bins, values[..., 4 * reg_max + num_classes :], points, cells)


class YOLOv8Postprocess(nn.Module):
    """Decode raw outputs, suppress what is found twice, and draw the masks if there are any.

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
        decoded = decode(raw, self.num_classes, self.strides, self.reg_max)
        return decoded.boxes, decoded.classes.sigmoid()

    def forward(self, raw: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Return for each image ``boxes`` [n,4], ``scores`` [n], highest first, ``labels`` [n].

        With masks also ``masks`` [n,H,W], bool: nothing outside the box. H and W are those of the
        image, rounded up to a multiple of the finest stride.
        """
        decoded = decode(raw, self.num_classes, self.strides, self.reg_max)
        limits = (self.score_threshold, self.iou_threshold, self.max_detections)
        found = suppress(decoded.boxes, decoded.classes.sigmoid(), *limits)
        for prototypes in raw[len(self.strides) :]:
            for one, mixing, shapes in zip(found, decoded.mixing, prototypes.float(), strict=True):
                logits = torch.einsum("nm,mhw->nhw", mixing[one["places"]], shapes)
                one["masks"] = _draw(logits, one["boxes"], self.strides[0] // 2)
        return found


def _draw(logits: Tensor, boxes: Tensor, stride: int) -> Tensor:
    """Enlarge masks [n,h,w] by the stride, and cut them at 0 and at their boxes: [n,H,W], bool."""
    height, width = logits.shape[1] * stride, logits.shape[2] * stride
    # As a batch of one-channel pictures, which may be empty; channels may not.
    large = interpolate(logits[:, None], (height, width), mode="bilinear")[:, 0]
    return (large > 0) & within(boxes, height, width)


def within(boxes: Tensor, height: int, width: int, stride: int = 1) -> Tensor:
    """Tell which cells of a map have their centre in which box, xyxy in pixels: [n,H,W]."""
    centres = cell_centres(height, width, boxes) * stride  # [H,W,2]
    corners = boxes[:, None, None]  # [n,1,1,4]
    return ((centres >= corners[..., :2]) & (centres < corners[..., 2:])).all(-1)
