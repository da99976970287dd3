"""Build the small detectors of the lessons: the classes of paper scale, narrow and for 128 x 128.

Each has at most a million parameters, and learns scenes of digits on one CPU core.
"""

from __future__ import annotations

from typing import Protocol

from labs.boxes.anchors import Anchors
from labs.criteria import (
    YOLOv1Criterion,
    YOLOv3Criterion,
    YOLOv5Criterion,
    YOLOv7Criterion,
    YOLOv8Criterion,
)
from labs.detection import Detector
from labs.models import YOLOv1, YOLOv3, YOLOv4, YOLOv5, YOLOv7, YOLOv8
from labs.postprocess import (
    YOLOv1Postprocess,
    YOLOv3Postprocess,
    YOLOv5Postprocess,
    YOLOv8Postprocess,
)
from labs.recipes.single_shot import mini_ssd
from labs.recipes.two_stage import mini_cascade_rcnn, mini_faster_rcnn

STRIDES = (8, 16)
ANCHORS: Anchors = (((7, 33), (15, 31), (21, 27)), ((30, 31), (25, 40), (37, 42)))
"""Shapes of digits in training scenes, by k-means: width and height in pixels, for each stride."""
_BALANCE = (4.0, 1.0)
"""Weight of the objectness of each level in v5 and v7: a finer level has more to get wrong."""
EPS, MOMENTUM = 1e-3, 0.03
"""Of every batch norm, also in v3 and v4: their own momentum of 0.01 suits longer trainings."""


class Builder(Protocol):
    """Describe what builds a detector.

    It may take ``anchors`` and ``image_size`` as well, each with a default.
    """

    def __call__(self, num_classes: int) -> Detector:
        """Build it with fresh weights, for so many classes."""
        ...


def mini_yolo_v1(num_classes: int, image_size: int = 128) -> Detector:
    """Build a :class:`labs.models.YOLOv1` with a grid of 8 x 8 and one 1x1 convolution as head."""
    network = YOLOv1(
        num_classes,
        image_size=(image_size, image_size),
        stride=16,
        width=0.125,
        hidden=None,
        pairs=(1, 1),
        reduction=16,
        norm=True,
    )
    return Detector(network, YOLOv1Criterion(16), YOLOv1Postprocess(16))


def mini_yolo_v3(num_classes: int, anchors: Anchors = ANCHORS) -> Detector:
    """Build a :class:`labs.models.YOLOv3` of two levels with three anchors each."""
    return Detector(
        YOLOv3(
            num_classes,
            strides=STRIDES,
            depths=(1, 1, 1),
            width=0.25,
            stem_stride=2,
            eps=EPS,
            momentum=MOMENTUM,
        ),
        YOLOv3Criterion(anchors, STRIDES),
        YOLOv3Postprocess(anchors, STRIDES),
    )


def mini_yolo_v4(num_classes: int, anchors: Anchors = ANCHORS) -> Detector:
    """Build a :class:`labs.models.YOLOv4` of two levels, with the loss of v4: CIoU, smoothing."""
    tricks = YOLOv3Criterion(
        anchors, STRIDES, box="ciou", box_weight=0.07, ignore=0.7, smoothing=0.1
    )
    return Detector(
        YOLOv4(
            num_classes,
            strides=STRIDES,
            depths=(1, 1, 1),
            width=0.25,
            stem_stride=2,
            eps=EPS,
            momentum=MOMENTUM,
        ),
        tricks,
        YOLOv3Postprocess(anchors, STRIDES),
    )


def mini_yolo_v5(num_classes: int, anchors: Anchors = ANCHORS, image_size: int = 128) -> Detector:
    """Build a :class:`labs.models.YOLOv5` of two levels, as wide and as deep as scale ``"n"``."""
    return Detector(
        YOLOv5(num_classes, strides=STRIDES, image_size=image_size),
        YOLOv5Criterion(anchors, STRIDES, balance=_BALANCE),
        YOLOv5Postprocess(anchors, STRIDES),
    )


def mini_yolo_v7(num_classes: int, anchors: Anchors = ANCHORS, image_size: int = 128) -> Detector:
    """Build a :class:`labs.models.YOLOv7` of two levels; it reads boxes as v5 does."""
    return Detector(
        YOLOv7(num_classes, width=0.125, strides=STRIDES, image_size=image_size),
        YOLOv7Criterion(anchors, STRIDES, balance=_BALANCE),
        YOLOv5Postprocess(anchors, STRIDES),
    )


def mini_yolo_v8(num_classes: int, image_size: int = 128) -> Detector:
    """Build a :class:`labs.models.YOLOv8` of two levels, with the width of scale ``"n"``."""
    network = YOLOv8(num_classes, strides=STRIDES, image_size=image_size)
    return Detector(
        network,
        YOLOv8Criterion(num_classes, STRIDES, network.reg_max),
        YOLOv8Postprocess(num_classes, STRIDES, network.reg_max),
    )


DETECTORS: dict[str, Builder] = {
    "yolo_v1": mini_yolo_v1,
    "yolo_v3": mini_yolo_v3,
    "yolo_v4": mini_yolo_v4,
    "yolo_v5": mini_yolo_v5,
    "yolo_v7": mini_yolo_v7,
    "yolo_v8": mini_yolo_v8,
    "ssd": mini_ssd,
    "faster_rcnn": mini_faster_rcnn,
    "cascade_rcnn": mini_cascade_rcnn,
}
"""What ``python -m labs.recipes NAME`` can train."""
