"""Read the networks of the book: one file per architecture, written to be read."""

from labs.models.attention import (
    MultiHeadAttention,
    attention,
    attention_weights,
    causal_mask,
)
from labs.models.cascade_rcnn import Cascade, CascadeRCNN, cascade_rcnn_resnet50, corrected
from labs.models.deformable_attention import DeformableAttention, sample_levels
from labs.models.deformable_detr import DeformableDETR, deformable_detr_resnet50
from labs.models.detr import DETR, SetEstimates, detr_resnet50
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
from labs.models.position import (
    LearntPositions,
    SinePositions,
    resize_positions,
    sine_positions,
)
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
from labs.models.transformer import Decoder, DecoderLayer, Encoder, EncoderLayer, FeedForward
from labs.models.vgg import VGG, vgg16
from labs.models.vit import ViT, vit_b_16
from labs.models.yolo_v1 import YOLOv1
from labs.models.yolo_v3 import V2_ANCHORS, V3_ANCHORS, YOLOv3
from labs.models.yolo_v4 import V4_ANCHORS, YOLOv4
from labs.models.yolo_v5 import YOLOv5
from labs.models.yolo_v7 import YOLOv7
from labs.models.yolo_v8 import C2f, YOLOv8

__all__ = [
    "DETR",
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
    "Decoder",
    "DecoderLayer",
    "DeformableAttention",
    "DeformableDETR",
    "DigitNet",
    "Encoder",
    "EncoderLayer",
    "FasterRCNN",
    "FeaturePyramid",
    "FeedForward",
    "GradientPaths",
    "ImplicitConv",
    "LearntPositions",
    "MobileNetV2",
    "MultiHeadAttention",
    "Proposals",
    "RegionProposals",
    "RepConv",
    "ResNet",
    "ResNetMaps",
    "RoIEstimates",
    "RoIFeatures",
    "RoIHead",
    "SetEstimates",
    "SinePositions",
    "TwoLayers",
    "TwoStages",
    "VGGMaps",
    "ViT",
    "YOLOv1",
    "YOLOv3",
    "YOLOv4",
    "YOLOv5",
    "YOLOv7",
    "YOLOv8",
    "attention",
    "attention_weights",
    "cascade_rcnn_resnet50",
    "causal_mask",
    "corrected",
    "deformable_detr_resnet50",
    "detr_resnet50",
    "faster_rcnn_resnet50",
    "freeze_norms",
    "fuse",
    "gradient_paths",
    "level_of",
    "load_published",
    "mobilenet_v2",
    "resize_positions",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet_cifar",
    "rois_of",
    "sample_levels",
    "sine_positions",
    "ssd300_vgg16",
    "vgg16",
    "vit_b_16",
]
