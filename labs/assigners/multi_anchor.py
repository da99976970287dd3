"""Let several anchors, levels and cells answer for one object, as YOLOv5 does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labs.assigners.pairs import Pairs
from labs.assigners.truths import Truths
from labs.boxes.anchors import Anchors


@dataclass(frozen=True, eq=False)
class MultiAnchor:
    """Pair each object with every anchor of about its shape, in its cell and the two nearest ones.

    An anchor answers for a box when neither width nor height is ``ratio`` times larger or smaller
    than the box's: shapes are compared, not positions, so IoU plays no part. Besides the cell of
    the box's centre, the neighbour across the nearer vertical border answers, and the one across
    the nearer horizontal border: three times as many positives. Neighbours beyond the map do not
    exist; a centre on or beyond the border of the image belongs to the last cell.

    Attributes:
        anchors: Width and height in pixels, level by level, as many a level: [L,A,2].
        strides: Pixels per cell, level by level.
        ratio: A decoded box can be up to 4 times its anchor; so is this.
        neighbours: Whether the two nearest cells answer as well.

    Raises:
        ValueError: When anchors and strides do not fit.
    """

    anchors: Anchors
    strides: Sequence[int]
    ratio: float = 4.0
    neighbours: bool = True

    def __post_init__(self) -> None:
        if len(self.anchors) != len(self.strides) or len({len(row) for row in self.anchors}) != 1:
            raise ValueError(
                "MultiAnchor: expected one row of anchors per stride, all of one length, got "
                f"{[len(row) for row in self.anchors]} anchors for strides {tuple(self.strides)}"
            )

    def __call__(self, maps: Sequence[Tensor], truths: Truths) -> Pairs:
        """Pair the objects of a batch with places.

        Args:
            maps: One per level, [N,A,H,W,...]; only their sizes matter.
            truths: The objects; those of no size, and those that no anchor fits, find no place.
        """
        return Pairs.join([self._at(level, m.shape[2:4], truths) for level, m in enumerate(maps)])

    def _at(self, level: int, size: Sequence[int], truths: Truths) -> Pairs:
        """Pair the objects with the places of one level, of H rows and W columns."""
        fits = self.fits(level, truths.boxes)  # [T,A]
        cells, exists = self._cells(truths.boxes, self.strides[level], size)  # [T,3,2], [T,3]
        truth, anchor, which = (fits[:, :, None] & exists[:, None]).nonzero(as_tuple=True)
        column, row = cells[truth, which].long().unbind(-1)
        return Pairs(torch.full_like(truth, level), truths.image[truth], anchor, row, column, truth)

    def fits(self, level: int, boxes: Tensor) -> Tensor:
        """Tell which anchors of a level have about the shape of which box, bool, [T,A].

        A box inside out has no shape, and fits none.
        """
        anchors = torch.as_tensor(self.anchors[level]).to(boxes)
        ratio = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)[:, None] / anchors
        return torch.maximum(ratio, 1 / ratio).amax(-1) < self.ratio

    def _cells(self, boxes: Tensor, stride: int, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return column and row of each centre's cell and its neighbours, and which exist."""
        last = boxes.new_tensor([size[1] - 1, size[0] - 1])
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 / stride
        own = centre.floor().clamp(min=torch.zeros_like(last), max=last)
        step = (centre - own - 0.5).sign()  # -1: left, above; 1: right, below; 0: just between
        across, down = step * step.new_tensor([1, 0]), step * step.new_tensor([0, 1])
        cells = own[:, None] + torch.stack([torch.zeros_like(step), across, down], 1)  # [T,3,2]
        exists = ((cells >= 0) & (cells <= last)).all(-1)
        moved = self.neighbours & (step != 0)
        return cells, exists & torch.cat([torch.ones_like(moved[:, :1]), moved], 1)
