"""Build the small detectors of two and more stages: the classes of paper scale, for 128 x 128."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from labs.assigners import BalancedSampling
from labs.boxes import AnchorGrid
from labs.criteria import CascadeRCNNCriterion, FasterRCNNCriterion
from labs.detection import Detector
from labs.models import (
    CascadeRCNN,
    FasterRCNN,
    FeaturePyramid,
    RegionProposals,
    ResNetMaps,
    RoIFeatures,
    RoIHead,
    TwoLayers,
    resnet18,
)
from labs.models.cascade_rcnn import CASCADE_DELTAS
from labs.postprocess import CascadeRCNNPostprocess, FasterRCNNPostprocess

WIDTH, HIDDEN, HIDDEN_OF_THREE = 32, 44, 24
"""Channels of every map of the pyramid, and of the layers that judge a region."""
ANCHORS = AnchorGrid(((16,), (24,), (36,), (54,)))
"""Of maps of strides 4, 8, 16 and 32."""
_STRIDES = (4, 8, 16)
_MEAN, _STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
_REGIONS = BalancedSampling(64, 0.25)
_ANCHORS_DRAWN = BalancedSampling(128, 0.5)


class FirstStage(NamedTuple):
    """Hold what proposes regions, and what cuts them out."""

    backbone: nn.Module
    proposals: RegionProposals
    pooling: RoIFeatures


def first_stage() -> FirstStage:
    """Build three stages of a narrow ResNet-18, a pyramid on them, and what proposes regions."""
    body = ResNetMaps(resnet18(width=16), stages=3)
    backbone = nn.Sequential(body, FeaturePyramid(body.channels, WIDTH))
    proposals = RegionProposals(WIDTH, ANCHORS, before=(200, 100), after=(100, 50))
    return FirstStage(backbone, proposals, RoIFeatures(_STRIDES))


def mini_faster_rcnn(num_classes: int) -> Detector:
    """Build a :class:`labs.models.FasterRCNN` of 64 drawn regions an image."""
    head = RoIHead(TwoLayers(WIDTH, hidden=HIDDEN), HIDDEN, num_classes)
    criterion = FasterRCNNCriterion(
        num_classes, sample_anchors=_ANCHORS_DRAWN, sample_proposals=_REGIONS
    )
    network = FasterRCNN(*first_stage(), head, num_classes, _MEAN, _STD)
    return Detector(network, criterion, FasterRCNNPostprocess(num_classes))


def mini_cascade_rcnn(num_classes: int, shared: bool = False) -> Detector:
    """Build a :class:`labs.models.CascadeRCNN` of three heads.

    Args:
        num_classes: Background not counted.
        shared: As of the network.
    """
    heads = [
        RoIHead(
            TwoLayers(WIDTH, hidden=HIDDEN_OF_THREE), HIDDEN_OF_THREE, num_classes, each_class=False
        )
        for _ in CASCADE_DELTAS
    ]
    criterion = CascadeRCNNCriterion(
        num_classes, sample_anchors=_ANCHORS_DRAWN, sample_proposals=_REGIONS
    )
    network = CascadeRCNN(*first_stage(), heads, num_classes, _MEAN, _STD, shared)
    return Detector(network, criterion, CascadeRCNNPostprocess(num_classes))
