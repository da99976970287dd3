"""Turn raw outputs into detections: candidates first, which can be exported, then suppression."""

from labs.postprocess.yolo_v5 import YOLOv5Postprocess
from labs.postprocess.yolo_v8 import YOLOv8Postprocess

__all__ = [
    "YOLOv5Postprocess",
    "YOLOv8Postprocess",
]
