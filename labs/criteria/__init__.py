"""Say how wrong a detector is: one criterion per architecture, each a sum of named terms."""

from labs.criteria.cascade_rcnn import CascadeRCNNCriterion, CascadeStage
from labs.criteria.detr import DETRCriterion
from labs.criteria.faster_rcnn import FasterRCNNCriterion
from labs.criteria.ssd import SSDCriterion, hardest
from labs.criteria.yolo_v1 import YOLOv1Criterion
from labs.criteria.yolo_v3 import YOLOv3Criterion
from labs.criteria.yolo_v5 import YOLOv5Criterion
from labs.criteria.yolo_v7 import YOLOv7Criterion
from labs.criteria.yolo_v8 import YOLOv8Criterion

__all__ = [
    "CascadeRCNNCriterion",
    "CascadeStage",
    "DETRCriterion",
    "FasterRCNNCriterion",
    "SSDCriterion",
    "YOLOv1Criterion",
    "YOLOv3Criterion",
    "YOLOv5Criterion",
    "YOLOv7Criterion",
    "YOLOv8Criterion",
    "hardest",
]
