"""Say how wrong a detector is: one criterion per architecture, each a sum of named terms."""

from labs.criteria.targets import gather_targets, widen
from labs.criteria.yolo_v1 import YOLOv1Criterion
from labs.criteria.yolo_v3 import YOLOv3Criterion
from labs.criteria.yolo_v8 import YOLOv8Criterion

__all__ = [
    "YOLOv1Criterion",
    "YOLOv3Criterion",
    "YOLOv8Criterion",
    "gather_targets",
    "widen",
]
