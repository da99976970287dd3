"""Turn raw outputs into detections: candidates first, which can be exported, then suppression."""

from labs.postprocess.cascade_rcnn import CascadeRCNNPostprocess
from labs.postprocess.detr import DETRPostprocess
from labs.postprocess.faster_rcnn import FasterRCNNPostprocess
from labs.postprocess.single_image import SingleImage
from labs.postprocess.ssd import SSDPostprocess
from labs.postprocess.yolo_v1 import YOLOv1Postprocess
from labs.postprocess.yolo_v3 import YOLOv3Postprocess
from labs.postprocess.yolo_v5 import YOLOv5Postprocess
from labs.postprocess.yolo_v8 import YOLOv8Postprocess

__all__ = [
    "CascadeRCNNPostprocess",
    "DETRPostprocess",
    "FasterRCNNPostprocess",
    "SSDPostprocess",
    "SingleImage",
    "YOLOv1Postprocess",
    "YOLOv3Postprocess",
    "YOLOv5Postprocess",
    "YOLOv8Postprocess",
]
