"""Say how wrong a Faster R-CNN is: two losses of the first stage, two of the second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss

from labs.assigners.sampling import BalancedSampling
from labs.assigners.targets import Target
from labs.assigners.thresholds import Thresholds
from labs.assigners.truths import Truths
from labs.boxes.deltas import Deltas
from labs.boxes.estimates import Estimates
from labs.boxes.precision import widen
from labs.criteria.estimates import truths_of
from labs.ddp import mean_over_ranks
from labs.models.faster_rcnn import RCNN_DELTAS, RoIEstimates, TwoStages, rois_of
from labs.models.region_proposals import Proposals

Matcher = Callable[[Tensor, Tensor], Tensor]
Sampler = Callable[[Tensor], Tensor]
BETA = 1 / 9
"""Where the smooth L1 loss turns from a square into a line."""


@dataclass(frozen=True)
class Drawn:
    """Hold the regions of a batch that the second stage learns from, S of them.

    Attributes:
        rois: Which image of the batch, and xyxy in pixels, [S,5].
        labels: Class of each, int64, 0 for background, [S].
        boxes: Of the object that each answers for, [S,4]; of background, its own.
        added: Which of them nobody proposed, because they are the objects, bool, [S].
    """

    rois: Tensor
    labels: Tensor
    boxes: Tensor
    added: Tensor


class FirstStage(Protocol):
    """Describe settings that say how the first stage learns."""

    @property
    def match_anchors(self) -> Matcher:
        """Say which anchor answers for which object."""
        ...

    @property
    def sample_anchors(self) -> Sampler:
        """Say which anchors of an image count."""
        ...

    @property
    def proposal_deltas(self) -> Deltas:
        """Say how corrections are written."""
        ...

    @property
    def beta(self) -> float:
        """Say where the smooth L1 loss turns from a square into a line."""
        ...


@dataclass(frozen=True)
class FasterRCNNCriterion:
    """Return ``objectness``, ``proposal box``, ``class`` and ``box`` (Ren et al. 2015, 3.1.2).

    Attributes:
        num_classes: C, background not counted.
        match_anchors: Which anchor answers for which object.
        sample_anchors: Which anchors of an image count.
        match_proposals: Which proposal answers for which object.
        sample_proposals: Which proposals of an image count.
        proposal_deltas: How the first stage writes corrections.
        deltas: How the second stage does.
        beta: Where the smooth L1 losses turn from squares into lines.
    """

    num_classes: int = 80
    match_anchors: Matcher = field(default_factory=Thresholds)
    sample_anchors: Sampler = field(default_factory=BalancedSampling)
    match_proposals: Matcher = field(default_factory=lambda: Thresholds(0.5, 0.5, rescue=False))
    sample_proposals: Sampler = field(default_factory=lambda: BalancedSampling(512, 0.25))
    proposal_deltas: Deltas = field(default_factory=Deltas)
    deltas: Deltas = RCNN_DELTAS
    beta: float = BETA

    def __call__(self, raw: TwoStages, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Compare what both stages say with targets; the second is asked here.

        Args:
            raw: From the network.
            targets: One dict per image, on any device: ``boxes`` [n,4] xyxy in pixels and
                ``labels`` [n], from 0.

        Raises:
            ValueError: When outputs, settings and targets do not belong together.
        """
        truths = truths_of(raw.estimates, targets, self.num_classes, type(self).__name__)
        terms = proposal_losses(raw.estimates, truths, self)
        given = proposed(raw.proposals)
        drawn = draw(given, truths, self.match_proposals, self.sample_proposals)
        return terms | region_losses(raw.judge(drawn.rois), drawn, self.deltas, self.beta)


def proposal_losses(
    estimates: Estimates, truths: Truths, settings: FirstStage
) -> dict[str, Tensor]:
    """Return the losses of the first stage: ``objectness`` and ``proposal box``.

    Both are sums over the sampled anchors, divided by how many there are in the whole batch.

    Args:
        estimates: At all P anchors.
        truths: The objects of the batch.
        settings: How to match, sample and compare.
    """
    logits, deltas = widen(estimates.logits[..., 0]), widen(estimates.deltas)
    matched, aims = [], []
    for image in range(len(logits)):
        boxes = truths.boxes[truths.image == image]
        match = settings.match_anchors(boxes, estimates.references)
        matched.append(match)
        aims.append(boxes[match[match >= 0]])
    sampled = torch.stack([settings.sample_anchors(match) for match in matched])
    positive = torch.stack(matched) >= 0
    total = mean_over_ranks(sampled.sum()).clamp(min=1)
    loss = binary_cross_entropy_with_logits(
        logits[sampled], positive[sampled].to(logits), reduction="sum"
    )
    chosen = sampled[positive]  # of the anchors that answer, image by image
    references = estimates.references.expand_as(deltas)[positive & sampled]
    wanted = settings.proposal_deltas.encode(torch.cat(aims)[chosen], references)
    box = smooth_l1_loss(deltas[positive & sampled], wanted, reduction="sum", beta=settings.beta)
    return {"objectness": loss / total, "proposal box": box / total}


def proposed(proposals: Proposals) -> list[Tensor]:
    """Return the proposals of each image, xyxy in pixels, [n,4], without what fills up."""
    return [boxes[found] for boxes, found in zip(proposals.boxes, proposals.found, strict=True)]


@torch.no_grad()
def draw(proposals: Sequence[Tensor], truths: Truths, match: Matcher, sample: Sampler) -> Drawn:
    """Choose the regions of each image that the second stage learns from.

    The objects themselves are proposed too, or there would be none to learn from at first.

    Args:
        proposals: xyxy in pixels, of each image, [n,4].
        truths: The objects of the batch.
        match: Which proposal answers for which object.
        sample: Which proposals of an image count.
    """
    regions, labels, boxes, added = [], [], [], []
    for image, given in enumerate(proposals):
        mine = truths.image == image
        known, names = truths.boxes[mine].to(given), truths.labels[mine]
        new = torch.arange(len(given) + len(known), device=given.device) >= len(given)
        given = torch.cat([given, known])
        matched = match(known, given)
        chosen = sample(matched)
        given, matched = given[chosen], matched[chosen]
        positive = matched >= 0
        label = torch.zeros_like(matched)
        label[positive] = names[matched[positive]] + 1
        aim = given.clone()
        aim[positive] = known[matched[positive]]
        regions.append(given)
        labels.append(label)
        boxes.append(aim)
        added.append(new[chosen])
    return Drawn(rois_of(regions), torch.cat(labels), torch.cat(boxes), torch.cat(added))


def region_losses(
    said: RoIEstimates, drawn: Drawn, deltas: Deltas, beta: float = BETA
) -> dict[str, Tensor]:
    """Return the losses of the second stage: ``class`` and ``box``.

    Both are sums over the regions, divided by how many there are in the whole batch; of the
    corrections only that of the right class counts, and none of background.

    Args:
        said: Of the drawn regions.
        drawn: The regions and what they answer for.
        deltas: How corrections are written.
        beta: Where the smooth L1 loss turns from a square into a line.
    """
    logits, corrections = widen(said.logits), widen(said.deltas)
    total = mean_over_ranks(logits.new_tensor(len(logits))).clamp(min=1)
    positive = drawn.labels > 0
    column = drawn.labels if corrections.shape[1] > 1 else torch.zeros_like(drawn.labels)
    given = corrections[positive, column[positive]]
    wanted = deltas.encode(drawn.boxes[positive], drawn.rois[positive, 1:])
    return {
        "class": cross_entropy(logits, drawn.labels, reduction="sum") / total,
        "box": smooth_l1_loss(given, wanted, reduction="sum", beta=beta) / total,
    }
