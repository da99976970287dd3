"""YOLO v4: what differs from v3 is the backbone (CSP, Mish), SPP, and a neck that also goes down.

After Bochkovskiy, Wang and Liao 2020, "YOLOv4: Optimal Speed and Accuracy of Object Detection",
https://arxiv.org/abs/2004.10934; CSP from Wang et al. 2020, arXiv:1911.11929; Mish from Misra 2019,
arXiv:1908.08681; the path down from Liu et al. 2018 (PANet), arXiv:1803.01534, with stacking in
place of addition.

Raw outputs mean what v3's mean. Criterion and postprocess are v3's too, with the settings of the
paper as arguments: ``YOLOv3Criterion(V4_ANCHORS, box="ciou", box_weight=0.07, ignore=0.7,
smoothing=...)``. Two things of the paper's program are left out: one object there may have several
anchors (all whose shape fits by more than 0.213), and ``stretch`` differs by level there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from labs.models.blocks import SPP, Conv, set_norms
from labs.models.settings import refuse_counts, refuse_factors
from labs.models.yolo_v3 import (
    Activation,
    Anchors,
    Residual,
    convolve_five,
    leaky,
    make_head,
    refuse_bad_levels,
    scale,
)

# Width and height in pixels, by level, finest first.
V4_ANCHORS: Anchors = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)


class CSPStage(nn.Module):
    """Halve the map, and send one half of the channels past the residual blocks.

    Half of the gradient so has a path without any block, and the blocks work on half the channels:
    [N,c_in,H,W] to [N,c_out,H/2,W/2].

    Args:
        c_in: Channels that come in.
        c_out: Channels that go out.
        depth: Residual blocks.
        activation: Makes the activation of each convolution.
        split: Give each path half the channels. The first stage of the paper's network has so few
            that it gives each path all of them, and squeezes inside the blocks instead.
    """

    def __init__(
        self, c_in: int, c_out: int, depth: int, activation: Activation, split: bool = True
    ) -> None:
        super().__init__()
        path = c_out // 2 if split else c_out
        self.halve = Conv(c_in, c_out, 3, 2, activation=activation())
        self.past = Conv(c_out, path, 1, activation=activation())
        self.enter = Conv(c_out, path, 1, activation=activation())
        self.blocks = nn.Sequential(*(Residual(path, c_out // 2, activation) for _ in range(depth)))
        self.leave = Conv(path, path, 1, activation=activation())
        self.join = Conv(2 * path, c_out, 1, activation=activation())

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,c_in,H,W] to [N,c_out,H/2,W/2]."""
        x = self.halve(x)
        through = self.leave(self.blocks(self.enter(x)))
        return self.join(torch.cat([through, self.past(x)], 1))


class CSPDarknet53(nn.Module):
    """Halve the image once per stage, and return the maps of the given strides, finest first.

    Args:
        strides: Of the maps to return, each twice the one before; the last is the last stage's.
        depths: Residual blocks per stage.
        width: Factor on all channels.
        activation: Makes the activation of each convolution.
        stem_stride: Of the first convolution; see :class:`labs.models.yolo_v3.Darknet53`.

    Attributes:
        channels: Of the returned maps.
    """

    def __init__(
        self,
        strides: Sequence[int] = (8, 16, 32),
        depths: Sequence[int] = (1, 2, 8, 8, 4),
        width: float = 1.0,
        activation: Activation = nn.Mish,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        c = scale(32, width)
        self.stem = Conv(3, c, 3, stem_stride, activation=activation())
        self.stages = nn.ModuleList(
            # [64,H/2,W/2], [128,H/4,W/4], [256,H/8,W/8], [512,H/16,W/16], [1024,H/32,W/32]
            CSPStage(c * 2**i, c * 2 ** (i + 1), depth, activation, split=i > 0)
            for i, depth in enumerate(depths)
        )
        self.strides, self.stem_stride = tuple(strides), stem_stride
        self.channels = tuple(c * stride // stem_stride for stride in strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images [N,3,H,W] to one map per stride, [N,channels,H/stride,W/stride]."""
        x, maps, stride = self.stem(x), [], self.stem_stride
        for stage in self.stages:
            x, stride = stage(x), 2 * stride
            if stride in self.strides:
                maps.append(x)
        return maps


class PAN(nn.Module):
    """Carry what the maps know up to the fine ones, and back down: maps in, maps out, finest first.

    Up, it is v3's pyramid, but each map of the backbone is halved in channels first. Down, each
    level strides what the finer one found, so that exact places reach the coarse maps by a short
    way. The coarsest map passes SPP before all that.

    Args:
        channels: Of the backbone's maps, finest first, each twice the one before.
        activation: Makes the activation of each convolution.
    """

    def __init__(self, channels: Sequence[int], activation: Activation = leaky) -> None:
        super().__init__()
        halves = [c // 2 for c in channels]
        pairs = list(pairwise(halves))  # finer and coarser
        self.channels = tuple(halves)  # of the maps that come out
        self.top = _make_top(channels[-1], activation)
        self.lead = nn.ModuleList(Conv(b, a, 1, activation=activation()) for a, b in pairs)
        self.lateral = nn.ModuleList(Conv(2 * a, a, 1, activation=activation()) for a, _ in pairs)
        self.up = nn.ModuleList(convolve_five(2 * a, a, activation) for a, _ in pairs)
        self.stride = nn.ModuleList(Conv(a, b, 3, 2, activation=activation()) for a, b in pairs)
        self.down = nn.ModuleList(convolve_five(2 * b, b, activation) for _, b in pairs)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map [N,C,H,W] of each level to [N,C/2,H,W]."""
        out = [self.top(maps[-1])]
        for level in reversed(range(len(maps) - 1)):  # from coarse to fine
            # To the size of the finer map, not times two: an odd side was rounded up on its way.
            lead, size = self.lead[level](out[0]), maps[level].shape[2:]
            above = interpolate(lead, size=size, mode="nearest")
            beside = self.lateral[level](maps[level])
            out.insert(0, self.up[level](torch.cat([beside, above], 1)))
        for level in range(len(maps) - 1):  # from fine to coarse
            below = self.stride[level](out[level])
            out[level + 1] = self.down[level](torch.cat([below, out[level + 1]], 1))
        return out


class YOLOv4(nn.Module):
    """Map images [N,3,H,W] to a map [N,anchors*(5+num_classes),H/stride,W/stride] per stride.

    The channels are those of :class:`labs.models.YOLOv3`. With 80 classes it has 64,363,101
    parameters.

    Args:
        num_classes: How many classes.
        anchors: How many anchors each level has.
        strides: Of the levels, finest first, each twice the one before.
        depths: Residual blocks per stage of the backbone. Each stage halves the map, so there are
            as many as halvings from the stem to the coarsest stride.
        width: Factor on all channels.
        activation: Makes the activation of each convolution of the backbone.
        neck_activation: The same for neck and head, where the paper's network kept v3's.
        stem_stride: Of the first convolution; see :class:`labs.models.yolo_v3.Darknet53`.
        eps: Of every batch norm, 1e-5 in the authors' program; weights learnt with one eps are
            wrong with another.
        momentum: Weight of a new batch in the running statistics: 0.01 in the authors' program,
            which trains for 500,000 batches. After a few hundred the statistics would still be what
            they began as; 0.03 to 0.1 suits short runs.

    Raises:
        ValueError: When strides and depths do not fit, or a count or factor is not above 0.
    """

    def __init__(
        self,
        num_classes: int = 80,
        *,
        anchors: int = 3,
        strides: Sequence[int] = (8, 16, 32),
        depths: Sequence[int] = (1, 2, 8, 8, 4),
        width: float = 1.0,
        activation: Activation = nn.Mish,
        neck_activation: Activation = leaky,
        stem_stride: int = 1,
        eps: float = 1e-5,
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        counts = {"num_classes": num_classes, "anchors": anchors, "stem_stride": stem_stride}
        refuse_counts("YOLOv4", counts | {f"depths[{i}]": n for i, n in enumerate(depths)})
        refuse_factors("YOLOv4", {"width": width})
        refuse_bad_levels(strides, depths, stem_stride)
        self.num_classes, self.anchors, self.strides = num_classes, anchors, tuple(strides)
        self.backbone = CSPDarknet53(strides, depths, width, activation, stem_stride)
        self.neck = PAN(self.backbone.channels, neck_activation)
        self.head = nn.ModuleList(
            make_head(c, anchors, num_classes, neck_activation) for c in self.neck.channels
        )
        set_norms(self, eps, momentum)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images [N,3,H,W] in [0,1] to a map per stride; sides that do not divide round up."""
        maps = self.neck(self.backbone(images))
        return tuple(head(x) for head, x in zip(self.head, maps, strict=True))


def _make_top(channels: int, activation: Activation) -> nn.Sequential:
    """Convolve, pool at several sizes, convolve: [N,C,H,W] to [N,C/2,H,W]."""
    half = channels // 2
    return nn.Sequential(
        Conv(channels, half, 1, activation=activation()),
        Conv(half, channels, 3, activation=activation()),
        SPP(channels, half, activation=activation),  # squeezes, pools with 5, 9 and 13, mixes
        Conv(half, channels, 3, activation=activation()),
        Conv(channels, half, 1, activation=activation()),
    )
