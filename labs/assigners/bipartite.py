"""Assign as SSD does: one best box for each object first, then every box that overlaps enough."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labs.boxes import overlap

BACKGROUND = -1
"""In place of the index of an object: the reference answers for none."""


@dataclass(frozen=True)
class Bipartite:
    """Give each object its best default box, and more where they overlap (Liu et al. 2016, 2.2).

    First the pair of object and box with the highest IoU of all is taken, then the next best of
    the objects and boxes that are left, until every object has a box of its own. Without this rule
    an object that no default box fits would teach nothing. Then each other box answers for the
    object that it overlaps most, if by at least the threshold.

    Attributes:
        threshold: IoU from which a box answers for an object.
    """

    threshold: float = 0.5

    @torch.no_grad()
    def __call__(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Return which object each reference answers for, -1 for none: [P] of int64.

        Args:
            boxes: The objects of one image, xyxy in pixels, [n,4]. One without area gets no box.
            references: Default boxes, xyxy in pixels, [P,4].
        """
        if not len(boxes):
            return torch.full((len(references),), BACKGROUND, device=references.device)
        fit = overlap(boxes[:, None], references)  # [n,P]
        best, found = fit.max(0)
        found[best < self.threshold] = BACKGROUND
        left = fit.clone()
        for _ in range(len(boxes)):
            place = int(left.argmax())
            one, reference = divmod(place, len(references))
            if left[one, reference] <= 0:
                break
            found[reference] = one
            left[one], left[:, reference] = 0, 0
        return found
