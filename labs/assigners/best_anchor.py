"""Assign as YOLO v3 does: to the anchor whose shape fits best, and leave near misses alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labs.assigners.collisions import keep_largest
from labs.boxes import overlap
from labs.boxes.anchors import Anchors


@dataclass(frozen=True)
class Matches:
    """Hold which prediction answers for which object, for the m objects that have one.

    Attributes:
        target: Which of the given objects, [m] of int64.
        image: Of the object, [m] of int64.
        level: Whose anchor fits best, 0 for the finest, [m] of int64.
        anchor: Which of the level's anchors, [m] of int64.
        row: Of the cell that holds the centre, [m] of int64.
        column: Of that cell, [m] of int64.
        place: The prediction in the list of all, by level, anchor, row, column: [m] of int64.
    """

    target: Tensor
    image: Tensor
    level: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    place: Tensor


@dataclass(frozen=True)
class BestAnchor:
    """Give each object one anchor of one level (Redmon and Farhadi 2018, section 2.1).

    Of all anchors of all levels it is the one whose shape has the highest IoU with the object's,
    both laid on one corner; of two that fit equally, the first. If two objects ask for the same
    anchor in the same cell, the largest has it and the other is lost.

    Attributes:
        anchors: Per level, finest first, widths and heights in pixels.
        strides: Of the levels.
        ignore: A prediction that nobody asked for, but that overlaps an object by more than this,
            is not called background. The paper says so of the anchor; the program of its authors,
            and this one, take the *predicted* box.
    """

    anchors: Anchors
    strides: Sequence[int]
    ignore: float = 0.5

    @torch.no_grad()
    def __call__(self, boxes: Tensor, image: Tensor, sizes: Sequence[tuple[int, int]]) -> Matches:
        """Assign.

        Args:
            boxes: The objects of all images in one list, xyxy in pixels, [n,4].
            image: The image of each object, [n] of int64.
            sizes: Rows and columns of each level's map.
        """
        best = self.fit(boxes).argmax(1)
        of_level = torch.tensor([len(shapes) for shapes in self.anchors], device=best.device)
        levels = torch.arange(len(self.anchors), device=best.device)
        level = levels.repeat_interleave(of_level)[best]
        anchor = best - (of_level.cumsum(0) - of_level)[level]

        rows, columns = torch.tensor(sizes, device=best.device).unbind(1)  # [levels] each
        stride = torch.tensor(self.strides, device=best.device)[level]
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        cell = (centre / stride[:, None]).long()  # x and y, and so column and row
        row = cell[:, 1].clamp(min=0).minimum(rows[level] - 1)  # a centre on the far edge
        column = cell[:, 0].clamp(min=0).minimum(columns[level] - 1)

        size = of_level * rows * columns
        before = (size.cumsum(0) - size)[level]  # predictions of finer levels
        place = before + (anchor * rows[level] + row) * columns[level] + column
        kept = keep_largest(image * size.sum() + place, boxes)
        rest = (found[kept] for found in (image, level, anchor, row, column, place))
        return Matches(kept, *rest)

    def fit(self, boxes: Tensor) -> Tensor:
        """Return the IoU of each object's shape with each anchor's, [n, all anchors]."""
        flat = [shape for level in self.anchors for shape in level]
        shapes = torch.tensor(flat, dtype=boxes.dtype, device=boxes.device)
        at_origin = torch.cat([torch.zeros_like(shapes), shapes], 1)
        moved = boxes - boxes[:, :2].repeat(1, 2)
        return overlap(moved[:, None], at_origin)

    @torch.no_grad()
    def ignored(self, predicted: Tensor, boxes: Tensor, image: Tensor) -> Tensor:
        """Return which predictions overlap an object by more than ``ignore``, [N,P] of bool.

        Args:
            predicted: xyxy in pixels, [N,P,4].
            boxes: The objects of all images in one list, [n,4], the first image's first.
            image: The image of each object, [n] of int64, ascending.
        """
        count = torch.bincount(image, minlength=len(predicted))
        most = int(count.max()) if len(image) else 0
        if most == 0:
            return predicted.new_zeros(predicted.shape[:2], dtype=torch.bool)
        rank = torch.arange(len(image), device=image.device) - (count.cumsum(0) - count)[image]
        truth = predicted.new_zeros(len(predicted), most, 4)  # filled up with boxes of no size
        truth[image, rank] = boxes
        return overlap(predicted[:, :, None], truth[:, None]).amax(2) > self.ignore
