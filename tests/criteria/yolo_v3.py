"""Describe YOLO v3 and v4 to the sanity tests."""

from functools import partial

import torch

from labs.assigners import BestAnchor
from labs.criteria import YOLOv3Criterion
from labs.models import YOLOv3, YOLOv4
from labs.postprocess import YOLOv3Postprocess
from tests.criteria.version import CLASSES, Version

STRIDES = (8, 16)
ANCHORS = (((12, 24), (24, 24)), ((32, 36), (90, 100)))
SURE = 12.0


def encode(targets, height, width):
    """Let the anchor of the best shape speak for each object."""
    sizes = [(height // stride, width // stride) for stride in STRIDES]
    maps = [torch.full([len(targets), 2, 5 + CLASSES, *size], -SURE) for size in sizes]
    for one in maps:
        one[:, :, :4] = 0
    for i, target in enumerate(targets):
        boxes, nobody = target["boxes"], torch.zeros(len(target["boxes"]), dtype=torch.int64)
        found = BestAnchor(ANCHORS, STRIDES)(boxes, nobody, sizes)
        for m, t in enumerate(found.target.tolist()):
            level, anchor = found.level[m], found.anchor[m]
            cell = maps[level][i, anchor, :, found.row[m], found.column[m]]
            size = boxes[t, 2:] - boxes[t, :2]
            corner = torch.stack([found.column[m], found.row[m]])
            inside = (boxes[t, :2] + boxes[t, 2:]) / 2 / STRIDES[level] - corner
            cell[:2] = inside.logit(eps=1e-5)
            cell[2:4] = (size / torch.tensor(ANCHORS[level][anchor])).log()
            cell[4] = cell[5 + target["labels"][t]] = SURE
    return tuple(one.flatten(1, 2) for one in maps)


def version(network, **settings):
    return Version(
        partial(
            network,
            CLASSES,
            anchors=2,
            strides=STRIDES,
            depths=(1, 1, 1),
            width=0.25,
            stem_stride=2,
        ),
        YOLOv3Criterion(ANCHORS, STRIDES, **settings),
        YOLOv3Postprocess(ANCHORS, STRIDES),
        encode,
    )


def v3():
    return version(YOLOv3)


def v4():
    return version(YOLOv4, box="ciou", box_weight=0.07, ignore=0.7, smoothing=0.1)
