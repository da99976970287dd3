"""Turn what a network says into detections: one module per architecture, with and without NMS."""

from labs.postprocess.yolo_v5 import YOLOv5Postprocess

__all__ = ["YOLOv5Postprocess"]
