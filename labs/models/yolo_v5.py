"""YOLOv5: anchors, C3 blocks and a path aggregation neck (Ultralytics 2020-2022, without a paper).

Written from what is public about the networks of its releases 6.x (drawings, tables of layers,
counts), not from its program. Backbone, neck, head::

    image --> stem --> stage --> stage --> stage --> stage --> SPPF       each halves the side
                       /4        /8        /16       /32        |
                                  |         |                  1x1
                                  |         +<------- up -------+         top down: what it is
                                  |        1x1                  |
                                  +<-- up --+                   |
                                  +- down ->+------- down ----->+         bottom up: where it is
                                  v         v                   v
                                 1x1       1x1                 1x1        a box per anchor

At each cell the head answers once for each of three anchors. :mod:`labs.boxes.anchored` says what
the numbers for a box mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from labs.models.anchored import refuse_strides, start_at_prior
from labs.models.blocks import SPPF, Bottleneck, Conv, set_norms
from labs.models.settings import refuse_counts, refuse_factors
from labs.models.yolo_v3 import V3_ANCHORS

# v5 takes over v3's anchors, and fits new ones when they do not suit the data.
COCO_ANCHORS = V3_ANCHORS


@dataclass(frozen=True)
class Scale:
    """Hold what makes a YOLOv5 large or small.

    Attributes:
        depth: Multiplies how often blocks are repeated.
        width: Multiplies channels.
    """

    depth: float
    width: float


SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        "n": Scale(0.33, 0.25),
        "s": Scale(0.33, 0.50),
        "m": Scale(0.67, 0.75),
        "l": Scale(1.00, 1.00),
        "x": Scale(1.33, 1.25),
    }
)


class C3(nn.Module):
    """Send half of the channels through bottlenecks, and the other half around them.

    It is a cross-stage partial block (Wang et al. 2020) of three plain convolutions: half of the
    gradient never meets a bottleneck.

    Args:
        c_in: Channels that come in.
        c_out: Channels that go out.
        repeats: Bottlenecks in a row.
        shortcut: Whether each bottleneck adds its input: yes in the backbone, no in the neck.
    """

    def __init__(self, c_in: int, c_out: int, repeats: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        half = c_out // 2
        self.inner = Conv(c_in, half)
        self.around = Conv(c_in, half)
        self.blocks = nn.Sequential(
            *(Bottleneck(half, half, kernels=(1, 3), shortcut=shortcut) for _ in range(repeats))
        )
        self.mix = Conv(2 * half, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,C_in,H,W] to [N,C_out,H,W]."""
        return self.mix(torch.cat([self.blocks(self.inner(x)), self.around(x)], 1))


class Backbone(nn.Module):
    """Look at the image at coarser and coarser strides: 2, 4, 8, ….

    Args:
        channels: Of the maps at strides 2, 4, 8, …, as many as there are.
        repeats: Bottlenecks of the stages at strides 4, 8, …, one fewer.
        levels: How many of the last maps to return.
        in_channels: Channels of the images.
    """

    def __init__(
        self, channels: Sequence[int], repeats: Sequence[int], levels: int, in_channels: int = 3
    ) -> None:
        super().__init__()
        self.levels = levels
        # One 6x6 convolution with stride 2 sees what a 3x3 saw after 2x2 pixels had been stacked
        # as channels, the "Focus" of earlier releases.
        self.stem = Conv(in_channels, channels[0], 6, stride=2, padding=2)
        self.stages = nn.ModuleList(
            nn.Sequential(Conv(before, after, 3, stride=2), C3(after, after, count))
            for before, after, count in zip(channels[:-1], channels[1:], repeats, strict=True)
        )
        self.pool = SPPF(channels[-1], channels[-1])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map [N,in_channels,H,W] to the last maps, finest first."""
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        maps[-1] = self.pool(maps[-1])
        return maps[-self.levels :]


class Neck(nn.Module):
    """Let every level know what the others saw: coarse to fine, and back (PANet, Liu et al. 2018).

    Args:
        channels: Of the maps, finest first; the same go in and out.
        repeats: Bottlenecks of each block.
    """

    def __init__(self, channels: Sequence[int], repeats: int) -> None:
        super().__init__()
        pairs = list(pairwise(channels))  # finer, coarser
        self.narrow = nn.ModuleList(Conv(coarse, fine) for fine, coarse in pairs)
        self.up = nn.ModuleList(C3(2 * fine, fine, repeats, shortcut=False) for fine, _ in pairs)
        self.down = nn.ModuleList(Conv(fine, fine, 3, stride=2) for fine, _ in pairs)
        self.merge = nn.ModuleList(
            C3(2 * fine, coarse, repeats, shortcut=False) for fine, coarse in pairs
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map feature maps to as many of the same sizes, finest first."""
        out = list(maps)
        for i in reversed(range(len(self.up))):
            out[i + 1] = self.narrow[i](out[i + 1])  # as many channels as the finer map
            # To the size of the finer map, not times two: an odd side was rounded up on its way.
            coarse = interpolate(out[i + 1], size=out[i].shape[2:], mode="nearest")
            out[i] = self.up[i](torch.cat([coarse, out[i]], 1))
        for i, (down, merge) in enumerate(zip(self.down, self.merge, strict=True)):
            out[i + 1] = merge(torch.cat([down(out[i]), out[i + 1]], 1))
        return out


class Head(nn.Module):
    """Answer for each anchor of each cell, level by level, with one linear layer.

    Args:
        channels: Of the maps, finest first.
        anchors: Anchors of each cell, A.
        num_classes: Classes, C.
    """

    def __init__(self, channels: Sequence[int], anchors: int, num_classes: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(c, anchors * (5 + num_classes), 1) for c in channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map feature maps to raw outputs [N, A*(5+C), H, W]."""
        return tuple(level(x) for level, x in zip(self.levels, maps, strict=True))


class YOLOv5(nn.Module):
    """Map images [N,in_channels,H,W] in [0,1] to raw outputs, one map per stride.

    With 80 classes, scale ``"n"`` has 1,872,157 parameters and ``"s"`` 7,235,389, as published.

    Args:
        num_classes: Classes, C.
        scale: ``"n"``, ``"s"``, ``"m"``, ``"l"`` or ``"x"``.
        width: Multiplies channels (64, 128, … from stride 2 on); the scale's when None.
        depth: Multiplies how often blocks are repeated; the scale's when None.
        strides: Of the levels, finest first; each twice the one before, from 4 to 32. The backbone
            ends at the last one.
        anchors: Anchors of each cell, A.
        image_size: Side in pixels of the images to come. Objectness begins where each anchor of
            a level expects eight objects in such an image, as in the original, where it is always
            640.
        in_channels: Channels of the images.
        eps: Of every batch norm; weights learnt with one eps are wrong with another.
        momentum: Weight of a new batch in the running statistics of every batch norm.

    Attributes:
        strides: As given.

    Raises:
        ValueError: When the scale is unknown, the strides do not double, or a count or factor is
            not above 0.
    """

    def __init__(
        self,
        num_classes: int = 80,
        scale: str = "n",
        *,
        width: float | None = None,
        depth: float | None = None,
        strides: Sequence[int] = (8, 16, 32),
        anchors: int = 3,
        image_size: int = 640,
        in_channels: int = 3,
        eps: float = 1e-3,
        momentum: float = 0.03,
    ) -> None:
        super().__init__()
        _refuse(scale, strides)
        self.strides = tuple(strides)
        self.num_classes, self.anchors = num_classes, anchors
        width = SCALES[scale].width if width is None else width
        depth = SCALES[scale].depth if depth is None else depth
        counts = {"num_classes": num_classes, "anchors": anchors, "in_channels": in_channels}
        refuse_counts("YOLOv5", counts)
        refuse_factors("YOLOv5", {"width": width, "depth": depth, "image_size": image_size})
        stages = int(math.log2(strides[-1]))  # 5 for stride 32, the stem included
        channels = [8 * math.ceil(64 * 2**i * width / 8) for i in range(stages)]
        repeats = [max(round(n * depth), 1) for n in (3, 6, 9, 3)[: stages - 1]]
        levels = channels[-len(strides) :]
        self.backbone = Backbone(channels, repeats, len(strides), in_channels)
        self.neck = Neck(levels, max(round(3 * depth), 1))
        self.head = Head(levels, anchors, num_classes)
        biases = [level.get_parameter("bias") for level in self.head.levels]
        start_at_prior(biases, strides, anchors, num_classes, image_size)
        set_norms(self, eps, momentum)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images to raw outputs [N, A*(5+C), H/stride, W/stride] per level, finest first.

        The numbers of an anchor stand together: x, y, w, h, objectness, classes.
        """
        return self.head(self.neck(self.backbone(images)))


def _refuse(scale: str, strides: Sequence[int]) -> None:
    if scale not in SCALES:
        raise ValueError(f"YOLOv5: expected a scale of {', '.join(SCALES)}, got {scale!r}")
    refuse_strides("YOLOv5", strides)
