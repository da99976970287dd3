"""Say how wrong an SSD is: classes with the hardest of the background, and corrections of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss

from labs.assigners.bipartite import BACKGROUND, Bipartite
from labs.assigners.targets import Target
from labs.assigners.truths import Truths
from labs.boxes.deltas import Deltas
from labs.boxes.estimates import Estimates
from labs.boxes.precision import widen
from labs.criteria.estimates import truths_of
from labs.ddp import mean_over_ranks
from labs.models.ssd import SSD_DELTAS


@dataclass(frozen=True)
class SSDCriterion:
    """Return the terms of the loss: ``class`` and ``box`` (Liu et al. 2016, section 2.2).

    Both are sums, divided by the number of boxes that answer for an object in the whole batch, at
    least 1. Of the background only the boxes with the highest loss count, so many for each box that
    answers for an object of the same image.

    Attributes:
        num_classes: C, background not counted.
        matcher: Chooses which default boxes answer for an object.
        deltas: How the network writes corrections.
        ratio: Boxes of background for each box that answers for an object.
        least: Boxes of background that count at least in every image. In the paper 0: an image
            without objects teaches nothing.
        box_weight: Of the smooth L1 loss of the corrections.
    """

    num_classes: int = 80
    matcher: Bipartite = field(default_factory=Bipartite)
    deltas: Deltas = SSD_DELTAS
    ratio: float = 3.0
    least: int = 0
    box_weight: float = 1.0

    def __call__(self, raw: Estimates, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Compare raw outputs with targets.

        Args:
            raw: From the network.
            targets: One dict per image, on any device: ``boxes`` [n,4] xyxy in pixels and
                ``labels`` [n], from 0.

        Raises:
            ValueError: When outputs, settings and targets do not belong together.
        """
        truths = self._checked(raw, targets)
        logits, deltas = widen(raw.logits), widen(raw.deltas)
        found = [truths.image == image for image in range(len(targets))]
        matched = [self.matcher(truths.boxes[mine], raw.references) for mine in found]
        wanted = torch.zeros_like(raw.logits[..., 0], dtype=torch.int64)  # 0 is the background
        box = deltas.new_zeros(())
        for image, (match, mine) in enumerate(zip(matched, found, strict=True)):
            positive = match != BACKGROUND
            asked = match[positive]
            wanted[image, positive] = truths.labels[mine][asked] + 1
            aims = self.deltas.encode(truths.boxes[mine][asked], raw.references[positive])
            box = box + smooth_l1_loss(deltas[image, positive], aims, reduction="sum")
        loss = cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
        loss, positive = loss.unflatten(0, wanted.shape), wanted > 0
        counted = positive | hardest(loss.detach(), positive, self.ratio, self.least)
        total = mean_over_ranks(positive.sum()).clamp(min=1)
        return {
            "class": (loss * counted).sum() / total,
            "box": self.box_weight * box / total,
        }

    def _checked(self, raw: Estimates, targets: Sequence[Target]) -> Truths:
        """Return the objects in float32; refuse what cannot belong together."""
        who = type(self).__name__
        if raw.logits.shape[-1] != self.num_classes + 1:
            raise ValueError(
                f"{who}: expected {self.num_classes} + 1 logits of each box, background first, got "
                f"{raw.logits.shape[-1]}; give the network and its criterion the same classes"
            )
        return truths_of(raw, targets, self.num_classes, who)


def hardest(loss: Tensor, positive: Tensor, ratio: float, least: int = 0) -> Tensor:
    """Choose the background that counts: the boxes of each image with the highest loss.

    Args:
        loss: Of each box, [N,P].
        positive: Which boxes answer for an object, [N,P] of bool; they are never chosen.
        ratio: How many to choose for each of those.
        least: How many to choose at least.

    Returns:
        Which are chosen, [N,P] of bool. Of equal losses the first are.
    """
    wanted = (positive.sum(1) * ratio).clamp(min=least)
    ranked = loss.masked_fill(positive, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = ranked.argsort(1)
    return (rank < wanted[:, None]) & ~positive
