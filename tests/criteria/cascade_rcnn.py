"""Describe Cascade R-CNN to the sanity tests."""

import torch
from torch import nn

from labs.boxes import overlap
from labs.criteria import CascadeRCNNCriterion
from labs.models import (
    Cascade,
    CascadeRCNN,
    FeaturePyramid,
    RegionProposals,
    ResNetMaps,
    RoIEstimates,
    RoIFeatures,
    RoIHead,
    TwoLayers,
    resnet18,
)
from labs.models.cascade_rcnn import CASCADE_DELTAS
from labs.postprocess import CascadeRCNNPostprocess
from tests.criteria import faster_rcnn
from tests.criteria.faster_rcnn import ALL, ANCHORS, STRIDES, SURE, WIDTH
from tests.criteria.version import CLASSES, Version


def network(shared=False):
    body = ResNetMaps(resnet18(width=8))
    heads = [RoIHead(TwoLayers(WIDTH, hidden=24), 24, CLASSES, False) for _ in CASCADE_DELTAS]
    return CascadeRCNN(
        nn.Sequential(body, FeaturePyramid(body.channels, WIDTH)),
        RegionProposals(WIDTH, ANCHORS, before=(300, 100), after=(100, 50)),
        RoIFeatures(STRIDES),
        heads,
        CLASSES,
        shared=shared,
    )


def encode(targets, height, width):
    """Propose the objects themselves, and let all stages be sure of every region."""
    first = faster_rcnn.encode(targets, height, width)

    def sure(iou, deltas):
        def judge(rois):
            said = torch.full((len(rois), CLASSES + 1), -SURE)
            corrections = torch.zeros(len(rois), 1, 4)
            for row, (image, *box) in enumerate(rois.tolist()):
                target = targets[int(image)]
                fits = overlap(torch.tensor(box), target["boxes"])
                if not len(fits) or fits.max() < iou:
                    said[row, 0] = SURE
                    continue
                aim = fits.argmax()
                said[row, int(target["labels"][aim]) + 1] = SURE
                corrections[row, 0] = deltas.encode(target["boxes"][aim], torch.tensor(box))
            return RoIEstimates(corrections, said, rois)

        return judge

    stages = zip((0.5, 0.6, 0.7), CASCADE_DELTAS, strict=True)
    return Cascade(first.estimates, first.proposals, tuple(sure(*stage) for stage in stages))


def cascade_rcnn(shared=False):
    return Version(
        lambda: network(shared),
        CascadeRCNNCriterion(CLASSES, sample_anchors=ALL, sample_proposals=ALL),
        CascadeRCNNPostprocess(CLASSES),
        encode,
    )
