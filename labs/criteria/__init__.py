"""Say how wrong a detector is: one criterion per architecture, each a sum of named terms."""

from labs.criteria.yolo_v8 import YOLOv8Criterion

__all__ = ["YOLOv8Criterion"]
