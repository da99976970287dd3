"""Turn raw outputs into boxes, scores and labels: one postprocess per architecture."""

from labs.postprocess.yolo_v1 import YOLOv1Postprocess
from labs.postprocess.yolo_v3 import YOLOv3Postprocess

__all__ = ["YOLOv1Postprocess", "YOLOv3Postprocess"]
