"""Turn raw outputs into detections: candidates first, which can be exported, then suppression."""

from labs.postprocess.yolo_v8 import YOLOv8Postprocess

__all__ = ["YOLOv8Postprocess"]
