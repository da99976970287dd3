"""Assign each object one query, all of them together as cheaply as can be.

After Carion et al. 2020, https://arxiv.org/abs/2005.12872, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert

from labs.boxes.overlap import overlap
from labs.boxes.precision import widen


@dataclass(frozen=True)
class Hungarian:
    """Match queries with objects, so that the sum of the costs of all pairs is the least.

    Attributes:
        class_weight: Of how little a query says the class of an object.
        box_weight: Of the L1 distance of the boxes, in shares of the picture.
        giou_weight: Of one minus their generalised IoU.
        focal: Whether each class has a sigmoid of its own, and the cost of a class is that of the
            focal loss (Zhu et al. 2020, https://arxiv.org/abs/2010.04159); else a softmax over the
            classes and "no object".
    """

    class_weight: float = 1.0
    box_weight: float = 5.0
    giou_weight: float = 2.0
    focal: bool = False

    @torch.no_grad()
    def costs(
        self, logits: Tensor, boxes_norm: Tensor, truths_norm: Tensor, labels: Tensor
    ) -> Tensor:
        """Return what each query would cost for each object, [Q,n].

        Args:
            logits: Of the queries of one image, [Q,K].
            boxes_norm: Centre, width and height in shares of the picture, [Q,4].
            truths_norm: The objects of the image, the same, [n,4].
            labels: Their classes, [n].
        """
        logits, boxes_norm = widen(logits), widen(boxes_norm)
        said = _focal_costs(logits) if self.focal else -logits.softmax(-1)
        apart = torch.cdist(boxes_norm, truths_norm.to(boxes_norm), p=1)
        corners, others = (box_convert(x, "cxcywh", "xyxy") for x in (boxes_norm, truths_norm))
        giou = overlap(corners[:, None], others, "giou")
        return (
            self.class_weight * said[:, labels] + self.box_weight * apart - self.giou_weight * giou
        )

    def __call__(
        self, logits: Tensor, boxes_norm: Tensor, truths_norm: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return which queries answer, and each for which object: two of [min(Q,n)], int64.

        Arguments as of :meth:`costs`.

        Raises:
            ValueError: When a cost is not finite. The fault is further up: find the first module
                whose output is not, with :func:`labs.hooks.first_bad`.
        """
        costs = self.costs(logits, boxes_norm, truths_norm, labels)
        if not costs.isfinite().all():
            odd = "logits" if not logits.isfinite().all() else "boxes"
            raise ValueError(
                f"Hungarian: expected finite costs, got {odd} of queries that are not finite; find "
                "the first layer that says such numbers with labs.hooks.first_bad, and lower the "
                "rate or clip the gradients"
            )
        # scipy returns rows and columns: here rows are queries, columns are objects.
        query, truth = linear_sum_assignment(costs.cpu().numpy())
        device = logits.device
        return torch.as_tensor(query, device=device), torch.as_tensor(truth, device=device)


def _focal_costs(logits: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return what it would cost more to call a query an object of each class than background."""
    p = logits.sigmoid()
    as_object = alpha * (1 - p) ** gamma * -(p + 1e-8).log()
    as_background = (1 - alpha) * p**gamma * -(1 - p + 1e-8).log()
    return as_object - as_background
