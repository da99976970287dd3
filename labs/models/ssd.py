"""SSD: default boxes on six maps, classified and corrected in one pass.

After Liu et al. 2016, "SSD: Single Shot MultiBox Detector", https://arxiv.org/abs/1512.02325.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from labs.boxes.default_boxes import DefaultBoxes
from labs.boxes.deltas import Deltas
from labs.boxes.estimates import Estimates, answers_in_a_row
from labs.models.settings import refuse_counts
from labs.models.vgg import VGG

SSD300_BOXES = DefaultBoxes(
    # Fractions of 300 pixels: 21, 45, 99, ... The first map looks for objects smaller than 0.1.
    scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
    ratios=((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    strides=(8, 16, 32, 64, 100, 300),
)

SSD_DELTAS = Deltas((10.0, 10.0, 5.0, 5.0))
"""How SSD writes corrections; its program calls the inverses variances."""
_LEAST_SIDE = 268
"""Pixels of which the last of the six maps of VGG still has a cell."""


class SSD(nn.Module):
    """Convolve each map of a backbone once more, to classes and corrections of its default boxes.

    Args:
        backbone: Maps images to one map per level, finest first.
        channels: Of the maps.
        default_boxes: Of the levels.
        num_classes: C; one more logit, the first, says background.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: Sequence[int],
        default_boxes: DefaultBoxes = SSD300_BOXES,
        num_classes: int = 80,
    ) -> None:
        super().__init__()
        counts = {f"channels[{i}]": n for i, n in enumerate(channels)}
        refuse_counts("SSD", counts | {"num_classes": num_classes})
        if len(channels) != len(default_boxes.counts):
            raise ValueError(
                f"SSD: expected channels of {len(default_boxes.counts)} maps, one per level of the "
                f"default boxes, got {tuple(channels)}"
            )
        self.num_classes, self.default_boxes = num_classes, default_boxes
        self.backbone = backbone
        pairs = list(zip(channels, default_boxes.counts, strict=True))
        self.classes = nn.ModuleList(
            nn.Conv2d(c, count * (num_classes + 1), 3, padding=1) for c, count in pairs
        )
        self.boxes = nn.ModuleList(nn.Conv2d(c, count * 4, 3, padding=1) for c, count in pairs)
        for head in [*self.classes, *self.boxes]:
            nn.init.xavier_uniform_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, images: Tensor) -> Estimates:
        """Map images [N,3,H,W] in [0,1] to corrections, logits (background first) and boxes."""
        maps = self.backbone(images)
        logits = [
            answers_in_a_row(head(x), self.num_classes + 1)
            for head, x in zip(self.classes, maps, strict=True)
        ]
        deltas = [answers_in_a_row(head(x), 4) for head, x in zip(self.boxes, maps, strict=True)]
        height, width = images.shape[-2:]
        references = self.default_boxes(maps, (height, width))
        return Estimates(torch.cat(deltas, 1), torch.cat(logits, 1), references, (height, width))


class VGGMaps(nn.Module):
    """Turn VGG-16 into the backbone of SSD300: conv4_3, conv7, and four maps that shrink further.

    The linear layers become convolutions, the first of them dilated (conv6), and the last pooling
    no longer halves. Sizes in comments: at 300x300 and width 64.

    Args:
        width: Channels of VGG's first stage.

    Attributes:
        channels: Of the six maps.
    """

    # What the published weights expect: BGR of Caffe became RGB, the mean stayed, not the range.
    mean = (0.48235, 0.45882, 0.40784)
    gain = 255.0

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        refuse_counts("VGGMaps", {"width": width})
        w = width
        layers = [*VGG((2, 2, 3, 3, 3), 1, width=width, hidden=1).features]
        pools = [place for place, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        # 75 rows become 38, so that the finest map covers the image.
        layers[pools[2]] = nn.MaxPool2d(2, ceil_mode=True)
        self.to_conv4 = nn.Sequential(*layers[: pools[3]])  # [512,38,38]
        self.scale = nn.Parameter(torch.full((8 * w,), 20.0))
        self.to_conv7 = nn.Sequential(
            *layers[pools[3] : pools[4]],  # [512,19,19]
            nn.MaxPool2d(3, 1, padding=1),
            nn.Conv2d(8 * w, 16 * w, 3, padding=6, dilation=6),
            nn.ReLU(),
            nn.Conv2d(16 * w, 16 * w, 1),
            nn.ReLU(),
        )  # [1024,19,19]
        self.further = nn.ModuleList(
            [
                _shrink(16 * w, 4 * w, 8 * w, stride=2, padding=1),  # [512,10,10]
                _shrink(8 * w, 2 * w, 4 * w, stride=2, padding=1),  # [256,5,5]
                _shrink(4 * w, 2 * w, 4 * w),  # [256,3,3]
                _shrink(4 * w, 2 * w, 4 * w),  # [256,1,1]
            ]
        )
        self.channels = (8 * w, 16 * w, 8 * w, 4 * w, 4 * w, 4 * w)
        for layer in [*self.to_conv7[-4:], *self.further.modules()]:
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None  # the paper's layers have no norm behind them
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images [N,3,H,W] in [0,1] to six maps.

        Raises:
            ValueError: When H or W is below 268: the fifth map has no 3x3 cells left then.
        """
        if min(images.shape[-2:]) < _LEAST_SIDE:
            raise ValueError(
                f"VGGMaps: expected images of at least {_LEAST_SIDE} pixels a side, got "
                f"{images.shape[-2]}x{images.shape[-1]}; enlarge them, the paper's are 300x300"
            )
        x = (images - images.new_tensor(self.mean)[:, None, None]) * self.gain
        x = self.to_conv4(x)
        # conv4_3 has far larger values than the rest: one length for each cell, then learnt.
        maps = [self.scale[:, None, None] * normalize(x)]
        for stage in [self.to_conv7, *self.further]:
            x = stage(x)
            maps.append(x)
        return maps


def _shrink(inputs: int, hidden: int, outputs: int, stride: int = 1, padding: int = 0) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1),
        nn.ReLU(),
        nn.Conv2d(hidden, outputs, 3, stride, padding),
        nn.ReLU(),
    )


def ssd300_vgg16(num_classes: int = 80, width: int = 64) -> SSD:
    """Build SSD300 on VGG-16: 35,641,826 parameters with 90 classes, 8,732 default boxes at 300 px.

    Args:
        num_classes: C, background not counted.
        width: Channels of VGG's first stage, 64 in the paper.
    """
    backbone = VGGMaps(width)
    return SSD(backbone, backbone.channels, SSD300_BOXES, num_classes)
