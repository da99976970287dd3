"""Measure a training step of torchvision's Faster R-CNN and SSD against ours of the same weights.

Weights, proposals, samplers and norms are the same, so that only the programs differ.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, ssd300_vgg16
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

import labs.models
from labs.criteria import FasterRCNNCriterion, SSDCriterion
from labs.models import faster_rcnn_resnet50, load_published
from tools.bench_detection import stepping
from tools.timing import Pair, pair

CLASSES = 20


def bench_faster_rcnn() -> Pair:
    """Compare torchvision's Faster R-CNN on ResNet-50 and a pyramid with ours."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, trainable_layers=3, norm_layer=FrozenBatchNorm2d
    )
    theirs = FasterRCNN(backbone, CLASSES + 1, min_size=256, max_size=256)
    for layer in theirs.backbone.fpn.layer_blocks:  # norms that never learnt let the maps grow
        layer[0].weight.data /= 200
    return _compared(theirs, faster_rcnn_resnet50(CLASSES), FasterRCNNCriterion(CLASSES), 256)


def bench_ssd() -> Pair:
    """Compare torchvision's SSD300 on VGG-16 with ours."""
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    return _compared(theirs, labs.models.ssd300_vgg16(CLASSES), SSDCriterion(CLASSES), 300)


def _compared(
    theirs: nn.Module,
    ours: nn.Module,
    criterion: Callable[..., dict[str, Tensor]],
    size: int,
) -> Pair:
    """Give both the same weights and pictures, and time a step of each in turn."""
    load_published(ours, theirs.state_dict())
    images = torch.rand(2, 3, size, size)
    corner, side = torch.rand(2, 6, 2)
    boxes = torch.cat([0.6 * size * corner, 0.6 * size * corner + 10 + 0.35 * size * side], 1)
    targets = [{"boxes": part, "labels": torch.arange(3)} for part in boxes.split(3)]
    counted = [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets]  # from 1 there

    def total(terms: dict[str, Tensor]) -> Tensor:
        return torch.stack([*terms.values()]).sum()

    return pair(
        stepping(_learnt(theirs), lambda: total(theirs([*images], counted))),
        stepping(_learnt(ours), lambda: total(criterion(ours(images), targets))),
        7,
    )


def _learnt(network: nn.Module) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.requires_grad]


BENCHES: dict[str, Callable[[], Pair]] = {
    "train step: torchvision Faster R-CNN and ours, 2 of 256 px": bench_faster_rcnn,
    "train step: torchvision SSD300 and ours, 2 of 300 px": bench_ssd,
}
