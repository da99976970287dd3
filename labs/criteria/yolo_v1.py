"""Say how wrong YOLO v1 is: a sum of squared errors in five terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from labs.assigners import GridCell
from labs.boxes.precision import widen
from labs.criteria.outputs import Outputs
from labs.postprocess.yolo_v1 import decode_cells


@dataclass(frozen=True)
class YOLOv1Criterion:
    """Compute the loss of Redmon et al. 2016, equation 3, per image (the mean over the batch).

    - ``centre``: x and y of the responsible boxes, in cells; times ``coord``.
    - ``size``: the square roots of width and height, in sides of the image; times ``coord``. The
      roots make a small error matter more in a small box than in a large one.
    - ``objectness``: the confidence of the responsible boxes against their IoU with the object.
    - ``no_object``: the confidence of all other boxes against 0; times ``noobj``.
    - ``classes``: the probabilities of the cells with an object against 0 and 1.

    Attributes:
        stride: Side of a cell in pixels.
        boxes: Boxes per cell.
        coord: Weight of the boxes; 5 in the paper.
        noobj: Weight of the many boxes without an object; 0.5 in the paper.
        num_classes: C, to refuse a network of another number; None takes what the channels leave.
    """

    stride: int = 64
    boxes: int = 2
    coord: float = 5.0
    noobj: float = 0.5
    num_classes: int | None = None

    def __call__(
        self, raw: tuple[Tensor], targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the weighted terms, scalars whose sum is the loss.

        Args:
            raw: A tuple of the map [N,boxes*5+C,rows,columns].
            targets: Of each image ``boxes`` [n,4], xyxy in pixels, and ``labels`` [n], on any
                device; n may be 0.

        Raises:
            ValueError: When outputs, settings and targets do not belong together.
        """
        truths = self._outputs().truths(raw, targets)
        cells = widen(raw[0])
        n, _, rows, columns = cells.shape
        image, boxes, labels = truths.image, truths.boxes, truths.labels
        predicted = decode_cells(cells, self.stride, self.boxes)
        found = GridCell(self.stride)(predicted, boxes, image)

        by_cell = cells.movedim(1, -1)  # [N,rows,columns,B*5+C]
        per_box = by_cell[..., : self.boxes * 5].unflatten(-1, (self.boxes, 5))
        confidence = per_box[..., 4]  # [N,rows,columns,B]
        place = (found.image, found.row, found.column)
        mine = per_box[*place, found.box]  # [m,5]: x, y, roots of width and height, confidence

        truth = boxes[found.target]
        cell = torch.stack([found.column, found.row], -1)
        centre = (truth[:, :2] + truth[:, 2:]) / 2 / self.stride - cell
        canvas = truth.new_tensor([columns, rows]) * self.stride
        root = ((truth[:, 2:] - truth[:, :2]) / canvas).clamp(min=0).sqrt()
        kinds = one_hot(labels[found.target], by_cell.shape[-1] - self.boxes * 5).to(cells)
        others = torch.ones_like(confidence).index_put((*place, found.box), cells.new_zeros(()))
        terms = {
            "centre": self.coord * (mine[:, :2] - centre).square().sum(),
            "size": self.coord * (mine[:, 2:4] - root).square().sum(),
            "objectness": (mine[:, 4] - found.iou).square().sum(),
            "no_object": self.noobj * (others * confidence.square()).sum(),
            "classes": (by_cell[place][:, self.boxes * 5 :] - kinds).square().sum(),
        }
        return {name: term / n for name, term in terms.items()}

    def _outputs(self) -> Outputs:
        """Describe the map that is read."""
        kind, made_of = type(self).__name__, f"{self.boxes} boxes * 5 + C"
        return Outputs(kind, [self.stride], [1], 5 * self.boxes, self.num_classes, made_of)
