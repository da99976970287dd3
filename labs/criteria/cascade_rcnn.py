"""Say how wrong a Cascade R-CNN is: the losses of the first stage, and two of each head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from labs.assigners.sampling import BalancedSampling
from labs.assigners.targets import Target
from labs.assigners.thresholds import Thresholds
from labs.boxes.deltas import Deltas
from labs.criteria.estimates import truths_of
from labs.criteria.faster_rcnn import (
    BETA,
    Matcher,
    Sampler,
    draw,
    proposal_losses,
    proposed,
    region_losses,
)
from labs.models.cascade_rcnn import CASCADE_DELTAS, Cascade, corrected


@dataclass(frozen=True)
class CascadeStage:
    """Describe how one head learns.

    Attributes:
        iou: From which overlap with an object a region answers for it.
        deltas: How the head writes corrections.
        weight: Of its losses in the sum.
    """

    iou: float
    deltas: Deltas
    weight: float


CASCADE_STAGES = tuple(
    CascadeStage(iou, deltas, weight)
    for iou, deltas, weight in zip((0.5, 0.6, 0.7), CASCADE_DELTAS, (1.0, 0.5, 0.25), strict=True)
)
"""The bars of the paper, with the weights of the authors' program and of MMDetection. The authors'
also lets the second and the third head learn two and four times as fast."""


@dataclass(frozen=True)
class CascadeRCNNCriterion:
    """Return ``objectness``, ``proposal box``, and of each head t ``class t`` and ``box t``.

    The regions of a head are those that the head before it drew, where it would put them; objects
    are proposed to each head anew (Cai and Vasconcelos 2018, section 4).

    Attributes:
        num_classes: C, background not counted.
        match_anchors: Which anchor answers for which object.
        sample_anchors: Which anchors of an image count.
        sample_proposals: Which regions of an image count, for each head.
        proposal_deltas: How the first stage writes corrections.
        stages: The heads, first to last.
        beta: Where the smooth L1 loss of the first stage turns from a square into a line.
        box_beta: Where those of the heads do.
    """

    num_classes: int = 80
    match_anchors: Matcher = field(default_factory=Thresholds)
    sample_anchors: Sampler = field(default_factory=BalancedSampling)
    sample_proposals: Sampler = field(default_factory=lambda: BalancedSampling(512, 0.25))
    proposal_deltas: Deltas = field(default_factory=Deltas)
    stages: tuple[CascadeStage, ...] = CASCADE_STAGES
    beta: float = BETA
    box_beta: float = 1.0

    def __call__(self, raw: Cascade, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Compare what all stages say with targets; the heads are asked here, one by one.

        Args:
            raw: From the network.
            targets: One dict per image, on any device: ``boxes`` [n,4] xyxy in pixels and
                ``labels`` [n], from 0.

        Raises:
            ValueError: When outputs, settings and targets do not belong together.
        """
        if len(raw.judges) != len(self.stages):
            raise ValueError(
                "CascadeRCNNCriterion: expected one of stages for each head of the network, got "
                f"{len(self.stages)} for {len(raw.judges)}"
            )
        truths = truths_of(raw.estimates, targets, self.num_classes, type(self).__name__)
        terms = proposal_losses(raw.estimates, truths, self)
        given, size = proposed(raw.proposals), raw.estimates.size
        for number, (judge, stage) in enumerate(zip(raw.judges, self.stages, strict=True), 1):
            match = Thresholds(stage.iou, stage.iou, rescue=False)
            drawn = draw(given, truths, match, self.sample_proposals)
            said = judge(drawn.rois)
            losses = region_losses(said, drawn, stage.deltas, self.box_beta)
            terms |= {f"{name} {number}": stage.weight * loss for name, loss in losses.items()}
            rois = corrected(said, stage.deltas, size)[~drawn.added]
            given = [rois[rois[:, 0] == image, 1:] for image in range(len(targets))]
        return terms
