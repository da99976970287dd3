"""Describe YOLO v1 to the sanity tests."""

from functools import partial

import torch

from labs.criteria import YOLOv1Criterion
from labs.models import YOLOv1
from labs.postprocess import YOLOv1Postprocess
from tests.criteria.version import CLASSES, SIZE, Version

STRIDE = 16


def encode(targets, height, width):
    """Let the first box of the centre's cell speak for each object."""
    raw = torch.zeros(len(targets), 2 * 5 + CLASSES, height // STRIDE, width // STRIDE)
    for i, target in enumerate(targets):
        for box, label in zip(target["boxes"], target["labels"], strict=True):
            (x1, y1, x2, y2), cell = box.tolist(), raw[i]
            x, y = (x1 + x2) / 2 / STRIDE, (y1 + y2) / 2 / STRIDE
            roots = ((x2 - x1) / width) ** 0.5, ((y2 - y1) / height) ** 0.5
            cell[:5, int(y), int(x)] = torch.tensor([x - int(x), y - int(y), *roots, 1.0])
            cell[10 + label, int(y), int(x)] = 1
    return (raw,)


def version(hidden):
    network = partial(
        YOLOv1,
        CLASSES,
        image_size=(SIZE, SIZE),
        stride=STRIDE,
        width=1 / 16,
        hidden=hidden,
        pairs=(1, 1),
        reduction=16,
        norm=True,
    )
    return Version(network, YOLOv1Criterion(STRIDE), YOLOv1Postprocess(STRIDE), encode, square=True)
