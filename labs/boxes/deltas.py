"""Say a box as a correction of another: the four numbers that two-stage detectors and SSD learn.

The centre moves by a fraction of the reference's size, and the size changes by a factor whose
logarithm is learnt (Girshick et al. 2014, appendix C, https://arxiv.org/abs/1311.2524)::

    t_x = w_x (x - x_ref) / width_ref        t_w = w_w log(width / width_ref)

The weights scale the four numbers to about the same spread. SSD's program calls their inverses
variances: (0.1, 0.1, 0.2, 0.2) there is (10, 10, 5, 5) here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from labs.boxes.precision import widen


@dataclass(frozen=True)
class Deltas:
    """Turn boxes into corrections of references, and corrections into boxes.

    Attributes:
        weights: Of x, y, width, height.
        limit: The logarithm of a factor is cut here when decoded, so that an untrained network
            does not ask for a box of infinite size. A width of 16 pixels may grow to 1,000.
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    limit: float = math.log(1000 / 16)

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Return the corrections that lead from the references to the boxes, [...,4].

        Args:
            boxes: xyxy in pixels, with an area, [...,4].
            references: xyxy in pixels, with an area, [...,4].
        """
        centre, size = _centre_and_size(widen(boxes))
        start, unit = _centre_and_size(widen(references))
        deltas = torch.cat([(centre - start) / unit, (size / unit).log()], -1)
        return deltas * deltas.new_tensor(self.weights)

    def decode(self, deltas: Tensor, references: Tensor) -> Tensor:
        """Return the boxes to which the corrections lead, xyxy in pixels, [...,4].

        Args:
            deltas: As the network says them, [...,4].
            references: xyxy in pixels, [...,4].
        """
        start, unit = _centre_and_size(widen(references))
        plain = widen(deltas)
        plain = plain / plain.new_tensor(self.weights)
        centre = start + plain[..., :2] * unit
        half = plain[..., 2:].clamp(max=self.limit).exp() * unit / 2
        return torch.cat([centre - half, centre + half], -1)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    corner, opposite = boxes[..., :2], boxes[..., 2:]
    size = opposite - corner
    return corner + size / 2, size
