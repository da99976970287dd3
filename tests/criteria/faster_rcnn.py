"""Describe Faster R-CNN to the sanity tests."""

import torch
from torch import nn

from labs.assigners import BalancedSampling
from labs.boxes import AnchorGrid, Deltas, Estimates, overlap
from labs.criteria import FasterRCNNCriterion
from labs.models import (
    FasterRCNN,
    FeaturePyramid,
    Proposals,
    RegionProposals,
    ResNetMaps,
    RoIEstimates,
    RoIFeatures,
    RoIHead,
    TwoLayers,
    TwoStages,
    resnet18,
)
from labs.models.faster_rcnn import RCNN_DELTAS
from labs.postprocess import FasterRCNNPostprocess
from tests.criteria.version import CLASSES, Version

ANCHORS = AnchorGrid(((16,), (32,), (64,), (96,), (128,)))
WIDTH, STRIDES = 16, (4, 8, 16, 32)
SURE = 20.0
ALL = BalancedSampling(10**6)  # what is drawn by chance could not be compared


def first_stage():
    """Build a backbone, what proposes regions on its maps, and what cuts them out."""
    body = ResNetMaps(resnet18(width=8))
    return (
        nn.Sequential(body, FeaturePyramid(body.channels, WIDTH)),
        RegionProposals(WIDTH, ANCHORS, before=(300, 100), after=(100, 50)),
        RoIFeatures(STRIDES),
    )


def head(each_class):
    return RoIHead(TwoLayers(WIDTH, hidden=24), 24, CLASSES, each_class)


def network(each_class):
    return FasterRCNN(*first_stage(), head(each_class), CLASSES)


def sure(targets, iou, deltas, each_class):
    """Return a second stage that knows the objects, and which of them a region is about."""

    def judge(rois):
        said = torch.full((len(rois), CLASSES + 1), -SURE)
        corrections = torch.zeros(len(rois), CLASSES + 1 if each_class else 1, 4)
        for row, (image, *box) in enumerate(rois.tolist()):
            target = targets[int(image)]
            fits = overlap(torch.tensor(box), target["boxes"])
            if not len(fits) or fits.max() < iou:
                said[row, 0] = SURE
                continue
            label = int(target["labels"][fits.argmax()]) + 1
            said[row, label] = SURE
            aim = target["boxes"][fits.argmax()]
            corrections[row, label if each_class else 0] = deltas.encode(aim, torch.tensor(box))
        return RoIEstimates(corrections, said, rois)

    return judge


def encode(targets, height, width):
    """Propose the objects themselves, and let both stages be sure of every region."""
    strides = (*STRIDES, 64)
    maps = [torch.zeros(1, 1, -(-height // by), -(-width // by)) for by in strides]
    references = ANCHORS(maps, (height, width))
    deltas = torch.zeros(len(targets), len(references), 4)
    logits = torch.full((len(targets), len(references), 1), -SURE)
    match = FasterRCNNCriterion().match_anchors
    for image, target in enumerate(targets):
        found = match(target["boxes"], references)
        mine = found >= 0
        aims = target["boxes"][found[mine]]
        deltas[image, mine] = Deltas().encode(aims, references[mine])
        logits[image, mine] = SURE
    most = max(1, *(len(target["boxes"]) for target in targets))
    boxes = torch.zeros(len(targets), most, 4)
    found = torch.zeros(len(targets), most, dtype=torch.bool)
    for image, target in enumerate(targets):
        boxes[image, : len(target["boxes"])] = target["boxes"]
        found[image, : len(target["boxes"])] = True

    estimates = Estimates(deltas, logits, references, (height, width))
    judge = sure(targets, 0.5, RCNN_DELTAS, True)
    return TwoStages(estimates, Proposals(boxes, found.float(), found), judge)


def faster_rcnn(each_class=True):
    return Version(
        lambda: network(each_class),
        FasterRCNNCriterion(CLASSES, sample_anchors=ALL, sample_proposals=ALL),
        FasterRCNNPostprocess(CLASSES),
        encode,
    )
