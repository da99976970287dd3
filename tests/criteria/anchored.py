"""Describe YOLOv5 and v7 to the sanity tests."""

from functools import partial

import torch

from labs.assigners import MultiAnchor, Truths
from labs.boxes.anchored import split_anchors
from labs.criteria import YOLOv5Criterion, YOLOv7Criterion
from labs.models import YOLOv5, YOLOv7
from labs.postprocess import YOLOv5Postprocess
from tests.criteria.version import CLASSES, SIZE, Version

STRIDES = (8, 16)
ANCHORS = (((12, 14), (18, 30), (30, 20)), ((40, 60), (70, 40), (110, 110)))
SURE = 12.0


def encode_anchored(boxes, corners, anchors, stride):
    """Return the raw numbers that stand for boxes, [...,4]; undoes :func:`decode_anchored`.

    Args:
        boxes: xyxy in pixels, [...,4].
        corners: Column and row of the cells, [...,2].
        anchors: Width and height in pixels, [...,2].
        stride: Pixels per cell.

    Returns:
        Numbers that are infinite or NaN where the box is out of the anchor's reach: a centre more
        than half a cell outside of the cell, a size that is 0 or at least 4 times the anchor's.
    """
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 / stride
    size = boxes[..., 2:] - boxes[..., :2]
    scaled = torch.cat([centre - corners + 0.5, (size / anchors).sqrt()], -1)
    return torch.logit(scaled / 2)


def encode(targets, height, width, everywhere):
    """Let all the places that v5 pairs with an object speak for it, or one of them."""
    channels = 3 * (5 + CLASSES)
    raw = [torch.full([len(targets), channels, height // s, width // s], -SURE) for s in STRIDES]
    maps = [split_anchors(level, 3) for level in raw]  # views of the same memory
    truths = Truths.of(targets, like=raw[0])
    pairs = MultiAnchor(ANCHORS, STRIDES)(maps, truths)
    done = set()
    for i, truth in enumerate(pairs.truth.tolist()):
        if truth in done and not everywhere:
            continue
        done.add(truth)
        pair = pairs[torch.tensor([i])]
        level = pair.level.item()
        anchor = torch.tensor(ANCHORS[level])[pair.anchor]
        answer = torch.full([1, 5 + CLASSES], -SURE)
        answer[:, :4] = encode_anchored(
            truths.boxes[pair.truth], pair.corners, anchor, STRIDES[level]
        )
        answer[:, 4] = answer[:, 5 + truths.labels[truth]] = SURE
        maps[level][pair.places] = answer
    return tuple(raw)


def yolo_v5():
    return Version(
        partial(YOLOv5, CLASSES, width=0.125, strides=STRIDES, image_size=SIZE),
        YOLOv5Criterion(ANCHORS, STRIDES, balance=(4.0, 1.0)),
        YOLOv5Postprocess(ANCHORS, STRIDES),
        partial(encode, everywhere=True),
    )


def yolo_v7():
    return Version(
        partial(YOLOv7, CLASSES, width=0.125, strides=STRIDES, image_size=SIZE),
        YOLOv7Criterion(ANCHORS, STRIDES, balance=(4.0, 1.0)),
        YOLOv5Postprocess(ANCHORS, STRIDES),
        partial(encode, everywhere=False),  # it gives an object as many as have a good box
    )
