"""Assign by two thresholds of IoU, as the stages of Faster R-CNN do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labs.assigners.bipartite import BACKGROUND
from labs.boxes import overlap

_IGNORED = -2
"""In place of the index of an object: the reference neither answers for one nor is background."""


@dataclass(frozen=True)
class Thresholds:
    """Let a reference answer for the object it overlaps most, if by enough (Ren et al. 2015).

    At or above ``high`` it answers, below ``low`` it is background, and in between it is ignored.

    Attributes:
        low: IoU below which a reference is background.
        high: IoU from which it answers for an object.
        rescue: Whether the references that an object overlaps most, of all, answer even below
            ``high``: for the object that *they* overlap most, which may be another one. An object
            that no reference fits would teach nothing else.

    Raises:
        ValueError: Unless 0 <= low <= high <= 1.
    """

    low: float = 0.3
    high: float = 0.7
    rescue: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(
                f"Thresholds: expected 0 <= low <= high <= 1, got {self.low} and {self.high}"
            )

    @torch.no_grad()
    def __call__(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Return which object each reference answers for, [P] of int64.

        -1 stands for background, and -2 for a reference that is ignored.

        Args:
            boxes: The objects of one image, xyxy in pixels, [n,4].
            references: Anchors or proposals, xyxy in pixels, [P,4].
        """
        if not len(boxes):
            return torch.full((len(references),), BACKGROUND, device=references.device)
        fit = overlap(boxes[:, None], references)  # [n,P]
        best, nearest = fit.max(0)
        found = torch.where(best < self.low, BACKGROUND, nearest)
        found = torch.where((best >= self.low) & (best < self.high), _IGNORED, found)
        if self.rescue and len(references):
            most = fit.amax(1, keepdim=True)
            rescued = ((fit == most) & (most > 0)).any(0)
            found = torch.where(rescued, nearest, found)
        return found
