"""Build the small detectors of the lessons: the classes of paper scale, narrow and for 128 x 128.

Each has at most a million parameters, and learns scenes of digits on one CPU core.
"""

from __future__ import annotations

from collections.abc import Callable

from labs.criteria import YOLOv8Criterion
from labs.detection import Detector
from labs.models import YOLOv8
from labs.postprocess import YOLOv8Postprocess


def mini_yolo_v8(num_classes: int) -> Detector:
    """Build a :class:`labs.models.YOLOv8` of two levels, with the width of scale ``"n"``."""
    strides, reg_max = (8, 16), 16
    return Detector(
        YOLOv8(num_classes, strides=strides, reg_max=reg_max, image_size=128),
        YOLOv8Criterion(num_classes, strides, reg_max),
        YOLOv8Postprocess(num_classes, strides, reg_max),
    )


DETECTORS: dict[str, Callable[[int], Detector]] = {
    "yolo_v8": mini_yolo_v8,
}
"""What ``python -m labs.recipes NAME`` can train: each function takes ``num_classes``."""
