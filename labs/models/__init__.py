"""Read the networks of the book: one file per architecture, written to be read."""

from labs.models.cascade_rcnn import Cascade, CascadeRCNN, cascade_rcnn_resnet50, corrected
from labs.models.digitnet import DigitNet
from labs.models.faster_rcnn import (
    FasterRCNN,
    RoIEstimates,
    RoIHead,
    TwoLayers,
    TwoStages,
    faster_rcnn_resnet50,
    rois_of,
)
from labs.models.feature_pyramid import FeaturePyramid, ResNetMaps
from labs.models.frozen_norm import freeze_norms
from labs.models.fusion import ImplicitConv, RepConv, fuse
from labs.models.mobilenet import MobileNetV2, mobilenet_v2
from labs.models.paths import GradientPaths, gradient_paths
from labs.models.published import load_published
from labs.models.region_proposals import Proposals, RegionProposals
from labs.models.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet_cifar,
)
from labs.models.roi_features import RoIFeatures, level_of
from labs.models.ssd import SSD, SSD300_BOXES, VGGMaps, ssd300_vgg16
from labs.models.vgg import VGG, vgg16
from labs.models.yolo_v1 import YOLOv1
from labs.models.yolo_v3 import V2_ANCHORS, V3_ANCHORS, YOLOv3
from labs.models.yolo_v4 import V4_ANCHORS, YOLOv4
from labs.models.yolo_v5 import YOLOv5
from labs.models.yolo_v7 import YOLOv7
from labs.models.yolo_v8 import C2f, YOLOv8

__all__ = [
    "SSD",
    "SSD300_BOXES",
    "V2_ANCHORS",
    "V3_ANCHORS",
    "V4_ANCHORS",
    "VGG",
    "BasicBlock",
    "Bottleneck",
    "C2f",
    "Cascade",
    "CascadeRCNN",
    "DigitNet",
    "FasterRCNN",
    "FeaturePyramid",
    "GradientPaths",
    "ImplicitConv",
    "MobileNetV2",
    "Proposals",
    "RegionProposals",
    "RepConv",
    "ResNet",
    "ResNetMaps",
    "RoIEstimates",
    "RoIFeatures",
    "RoIHead",
    "TwoLayers",
    "TwoStages",
    "VGGMaps",
    "YOLOv1",
    "YOLOv3",
    "YOLOv4",
    "YOLOv5",
    "YOLOv7",
    "YOLOv8",
    "cascade_rcnn_resnet50",
    "corrected",
    "faster_rcnn_resnet50",
    "freeze_norms",
    "fuse",
    "gradient_paths",
    "level_of",
    "load_published",
    "mobilenet_v2",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet_cifar",
    "rois_of",
    "ssd300_vgg16",
    "vgg16",
]
