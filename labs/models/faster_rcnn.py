"""Faster R-CNN: propose regions, then look at each of them again.

After Ren et al. 2015, https://arxiv.org/abs/1506.01497; on a pyramid after Lin et al. 2017,
https://arxiv.org/abs/1612.03144.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from labs.boxes import AnchorGrid, Deltas, Estimates
from labs.models.feature_pyramid import FeaturePyramid, ResNetMaps
from labs.models.frozen_norm import freeze_norms
from labs.models.region_proposals import Proposals, RegionProposals
from labs.models.resnet import ResNet, resnet50
from labs.models.roi_features import RoIFeatures
from labs.models.settings import refuse_counts

RCNN_DELTAS = Deltas((10.0, 10.0, 5.0, 5.0))
"""How the second stage writes corrections."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class RoIEstimates(NamedTuple):
    """Hold what the second stage says of R regions.

    Attributes:
        deltas: A correction for each class, background first, [R,C+1,4]; or one for all, [R,1,4].
        logits: Background first, [R,C+1].
        rois: Which image of the batch, and xyxy in pixels, [R,5].
    """

    deltas: Tensor
    logits: Tensor
    rois: Tensor


class TwoStages(NamedTuple):
    """Hold what the first stage says, and the second stage, to be asked.

    In training the criterion chooses which regions the second stage is asked about; afterwards it
    is asked about all proposals.

    Attributes:
        estimates: Of the first stage, at all anchors, one logit each.
        proposals: The best of them, without gradients.
        judge: ``judge(rois)`` asks the second stage about regions [R,5], see
            :class:`RoIEstimates`.
    """

    estimates: Estimates
    proposals: Proposals
    judge: Callable[[Tensor], RoIEstimates]


def rois_of(boxes: Tensor | Sequence[Tensor]) -> Tensor:
    """Write down before each box which image of the batch it is of: R boxes become [R,5].

    Args:
        boxes: As many of every image, [N,K,4], or those of each image, [n,4].
    """
    if isinstance(boxes, Tensor):
        image = torch.arange(len(boxes), device=boxes.device)[:, None, None]
        image = image.expand(-1, boxes.shape[1], 1).to(boxes.dtype)
        return torch.cat([image, boxes], -1).flatten(0, 1)
    return torch.cat([torch.cat([b.new_full((len(b), 1), i), b], 1) for i, b in enumerate(boxes)])


class RoIHead(nn.Module):
    """Classify and correct regions by what stands in them.

    Args:
        body: Maps the cells of R regions, [R,C,S,S], to [R,D].
        features: D.
        num_classes: C; one more logit, the first, says background.
        each_class: Whether every class has a correction of its own.
    """

    def __init__(
        self, body: nn.Module, features: int, num_classes: int, each_class: bool = True
    ) -> None:
        super().__init__()
        refuse_counts("RoIHead", {"features": features, "num_classes": num_classes})
        self.body = body
        self.classes = nn.Linear(features, num_classes + 1)
        self.boxes = nn.Linear(features, 4 * (num_classes + 1 if each_class else 1))

    def forward(self, cells: Tensor, rois: Tensor) -> RoIEstimates:
        """Judge regions [R,5] by their cells [R,C,S,S]."""
        x = self.body(cells)
        return RoIEstimates(self.boxes(x).unflatten(1, (-1, 4)), self.classes(x), rois)


class TwoLayers(nn.Module):
    """Turn the cells of a region into numbers by two linear layers."""

    def __init__(self, channels: int, size: int = 7, hidden: int = 1024) -> None:
        super().__init__()
        self.fc6 = nn.Linear(channels * size * size, hidden)
        self.fc7 = nn.Linear(hidden, hidden)

    def forward(self, cells: Tensor) -> Tensor:
        """Map [R,channels,size,size] to [R,hidden]."""
        return relu(self.fc7(relu(self.fc6(cells.flatten(1)))))


class FasterRCNN(nn.Module):
    """Find regions on the maps of a backbone, and judge each by the cells that it covers.

    Args:
        backbone: Maps images to maps, finest first, all as wide.
        proposals: The first stage; it reads all maps.
        pooling: Cuts regions out of the maps.
        head: The second stage.
        num_classes: C, background not counted.
        mean: Of the channels of images, which are standardised first.
        std: The same.
    """

    def __init__(
        self,
        backbone: nn.Module,
        proposals: RegionProposals,
        pooling: RoIFeatures,
        head: RoIHead,
        num_classes: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.num_classes, self.mean, self.std = num_classes, tuple(mean), tuple(std)
        self.backbone, self.proposals = backbone, proposals
        self.pooling, self.head = pooling, head

    def forward(self, images: Tensor) -> TwoStages:
        """Map images [N,3,H,W] in [0,1] to estimates and proposals of regions, to be judged."""
        maps, estimates, proposals = propose(self, images)

        def judge(rois: Tensor) -> RoIEstimates:
            return self.head(self.pooling(maps, rois), rois)

        return TwoStages(estimates, proposals, judge)


class Proposes(Protocol):
    """Describe a network of which the first stage is that of Faster R-CNN."""

    backbone: nn.Module
    proposals: RegionProposals
    mean: tuple[float, ...]
    std: tuple[float, ...]


def propose(network: Proposes, images: Tensor) -> tuple[list[Tensor], Estimates, Proposals]:
    """Standardise images [N,3,H,W] in [0,1]; return the maps, and what the first stage says."""
    mean, std = (images.new_tensor(v)[:, None, None] for v in (network.mean, network.std))
    maps = network.backbone((images - mean) / std)
    height, width = images.shape[-2:]
    return maps, *network.proposals(maps, (height, width))


def faster_rcnn_resnet50(
    num_classes: int = 80,
    pyramid: bool = True,
    frozen_norms: bool = True,
    frozen_stages: int = 2,
    aligned: bool = False,
    width: int = 64,
) -> FasterRCNN:
    """Build Faster R-CNN on ResNet-50, with the settings of torchvision.

    With 90 classes on a pyramid it has 41,755,286 parameters, 41,808,406 when the batch norms
    learn.

    Args:
        num_classes: C, background not counted.
        pyramid: Whether regions are found on four maps of a pyramid and one more. ``False`` is the
            older form, "C4": regions are found on the third stage's map, and the fourth stage
            judges them.
        frozen_norms: Whether the batch norms stay as they are, see
            :func:`labs.models.freeze_norms`.
        frozen_stages: How many parts of the backbone never learn: 1 is the stem, 2 the first
            stage too.
        aligned: As of :class:`labs.models.RoIFeatures`; torchvision's weights want ``False``.
        width: Channels of the ResNet's first stage.
    """
    resnet = resnet50(width=width)
    if frozen_norms:
        freeze_norms(resnet)
    network = _on_a_pyramid if pyramid else _on_one_map
    built = network(resnet, num_classes, aligned)
    body = built.backbone.body if pyramid else built.backbone
    for part in [body.stem, *body.stages][:frozen_stages]:  # type: ignore[union-attr,misc]
        part.requires_grad_(False)
    return built


def _on_a_pyramid(resnet: ResNet, num_classes: int, aligned: bool) -> FasterRCNN:
    body = ResNetMaps(resnet)
    backbone = nn.Sequential()
    backbone.add_module("body", body)
    backbone.add_module("pyramid", FeaturePyramid(body.channels, 256))
    anchors = AnchorGrid(((32,), (64,), (128,), (256,), (512,)))
    return FasterRCNN(
        backbone,
        RegionProposals(256, anchors),
        RoIFeatures(body.strides, aligned=aligned),
        RoIHead(TwoLayers(256), 1024, num_classes),
        num_classes,
    )


def _on_one_map(resnet: ResNet, num_classes: int, aligned: bool) -> FasterRCNN:
    backbone = ResNetMaps(resnet, stages=3, first=2)
    channels, stride = backbone.channels[-1], backbone.strides[-1]
    anchors = AnchorGrid(((32, 64, 128, 256, 512),))
    body = nn.Sequential(resnet.layer4, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return FasterRCNN(
        backbone,
        RegionProposals(channels, anchors, before=(12000, 6000), after=(2000, 1000)),
        RoIFeatures((stride,), size=14, aligned=aligned),
        RoIHead(body, 2 * channels, num_classes),
        num_classes,
    )
