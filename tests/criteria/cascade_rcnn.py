"""Describe Cascade R-CNN to the sanity tests."""

from labs.criteria import CascadeRCNNCriterion
from labs.models import Cascade, CascadeRCNN
from labs.models.cascade_rcnn import CASCADE_DELTAS
from labs.postprocess import CascadeRCNNPostprocess
from tests.criteria import faster_rcnn
from tests.criteria.faster_rcnn import ALL, first_stage, head, sure
from tests.criteria.version import CLASSES, Version


def network(shared=False):
    heads = [head(each_class=False) for _ in CASCADE_DELTAS]
    return CascadeRCNN(*first_stage(), heads, CLASSES, shared=shared)


def encode(targets, height, width):
    """Propose the objects themselves, and let all stages be sure of every region."""
    first = faster_rcnn.encode(targets, height, width)
    stages = zip((0.5, 0.6, 0.7), CASCADE_DELTAS, strict=True)
    judges = tuple(sure(targets, iou, deltas, False) for iou, deltas in stages)
    return Cascade(first.estimates, first.proposals, judges)


def cascade_rcnn(shared=False):
    return Version(
        lambda: network(shared),
        CascadeRCNNCriterion(CLASSES, sample_anchors=ALL, sample_proposals=ALL),
        CascadeRCNNPostprocess(CLASSES),
        encode,
    )
