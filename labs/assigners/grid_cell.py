"""Assign as YOLO v1 does: the cell of the centre, and of its boxes the one that fits best."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labs.assigners.collisions import keep_largest
from labs.boxes import overlap


@dataclass(frozen=True)
class Responsible:
    """Hold which predicted box answers for which object, for the m objects that have a cell.

    Attributes:
        target: Which of the given objects, [m] of int64.
        image: Of the object, [m] of int64.
        row: Of its cell, [m] of int64.
        column: Of its cell, [m] of int64.
        box: Which of the cell's boxes is responsible, [m] of int64.
        iou: Of that box and the object, in [0, 1], [m], without gradient.
    """

    target: Tensor
    image: Tensor
    row: Tensor
    column: Tensor
    box: Tensor
    iou: Tensor


@dataclass(frozen=True)
class GridCell:
    """Make the cell that holds an object's centre answer for it (Redmon et al. 2016, section 2).

    Of the cell's boxes, the one with the highest IoU is responsible *at the moment*: the choice may
    change from step to step. Where none overlaps the object, it is the one whose corners are
    nearest, as in the authors' program. A cell has one set of class probabilities, and so one
    object: of several centres in a cell, the largest object is kept and the others are lost.

    Attributes:
        stride: Side of a cell in pixels.
    """

    stride: int

    @torch.no_grad()
    def __call__(self, predicted: Tensor, boxes: Tensor, image: Tensor) -> Responsible:
        """Assign.

        Args:
            predicted: The boxes of every cell, xyxy in pixels, [N,rows,columns,B,4].
            boxes: The objects of all images in one list, xyxy in pixels, [n,4].
            image: The image of each object, [n] of int64.

        Returns:
            Who is responsible for what; one object per cell at most.
        """
        rows, columns = predicted.shape[1:3]
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        cell = (centre / self.stride).long()  # x and y, and so column and row
        column = cell[:, 0].clamp(0, columns - 1)  # a centre on the far edge has no cell of its own
        row = cell[:, 1].clamp(0, rows - 1)
        target = keep_largest((image * rows + row) * columns + column, boxes)
        image, row, column = image[target], row[target], column[target]
        candidates, truth = predicted[image, row, column], boxes[target, None]  # [m,B,4], [m,1,4]
        iou = overlap(candidates, truth)
        apart = (candidates - truth).square().sum(-1)
        box = torch.where(iou.amax(1, keepdim=True) > 0, iou, -apart).argmax(1)
        return Responsible(target, image, row, column, box, iou.gather(1, box[:, None])[:, 0])
