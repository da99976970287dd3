"""YOLO v3: Darknet-53, a feature pyramid, and boxes as corrections of anchors at three scales.

After Redmon and Farhadi 2018, "YOLOv3: An Incremental Improvement",
https://arxiv.org/abs/1804.02767. What anchors are, and how a box is decoded from one, comes from
v2 (Redmon and Farhadi 2017, "YOLO9000: Better, Faster, Stronger",
https://arxiv.org/abs/1612.08242); the pyramid from Lin et al. 2017, arXiv:1612.03144.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from labs.boxes.anchors import Anchors
from labs.models.blocks import Conv, set_norms
from labs.models.settings import refuse_counts, refuse_factors

Activation = Callable[[], nn.Module]

leaky: Activation = partial(nn.LeakyReLU, 0.1)

# Width and height in pixels, by level, finest first: k-means on the boxes of COCO.
V3_ANCHORS: Anchors = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
# v2 has five on its one level of stride 32. Its paper says how many; the configuration of its
# program, yolov2.cfg, gives them, in cells.
V2_ANCHORS: Anchors = (
    tuple(
        (32 * w, 32 * h)
        for w, h in (
            (0.57273, 0.677385),
            (1.87446, 2.06253),
            (3.33843, 5.47434),
            (7.88282, 3.52778),
            (9.77052, 9.16828),
        )
    ),
)


class Residual(nn.Module):
    """Squeeze with 1x1, convolve with 3x3, add the input: [N,C,H,W] to [N,C,H,W].

    Args:
        channels: Of input and output.
        hidden: Channels between the two.
        activation: Makes the activation of each convolution.
    """

    def __init__(self, channels: int, hidden: int, activation: Activation = leaky) -> None:
        super().__init__()
        self.squeeze = Conv(channels, hidden, 1, activation=activation())
        self.expand = Conv(hidden, channels, 3, activation=activation())

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,C,H,W] to [N,C,H,W]."""
        return x + self.expand(self.squeeze(x))  # already active: the sum itself is not activated


class Darknet53(nn.Module):
    """Halve the image once per stage, and return the maps of the given strides, finest first.

    With its classifier (a linear layer on the pooled last map) the backbone has 53 layers with
    weights. Sizes in comments: at 256x256 and width 1.

    Args:
        strides: Of the maps to return, each twice the one before; the last is the last stage's.
        depths: Residual blocks per stage.
        width: Factor on all channels.
        activation: Makes the activation of each convolution.
        stem_stride: Of the first convolution; 1 in the paper. With 2 it is four times faster where
            a narrow network spends most of its time.

    Attributes:
        channels: Of the returned maps.
    """

    def __init__(
        self,
        strides: Sequence[int] = (8, 16, 32),
        depths: Sequence[int] = (1, 2, 8, 8, 4),
        width: float = 1.0,
        activation: Activation = leaky,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        c = scale(32, width)
        self.stem = Conv(3, c, 3, stem_stride, activation=activation())  # [32,256,256]
        stages = []
        for depth in depths:  # [64,128,128], [128,64,64], [256,32,32], [512,16,16], [1024,8,8]
            halve = Conv(c, 2 * c, 3, 2, activation=activation())
            c *= 2
            blocks = [Residual(c, c // 2, activation) for _ in range(depth)]
            stages.append(nn.Sequential(halve, *blocks))
        self.stages = nn.ModuleList(stages)
        self.strides = tuple(strides)
        self.stem_stride = stem_stride
        self.channels = tuple(scale(32, width) * stride // stem_stride for stride in strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images [N,3,H,W] to one map per stride, [N,channels,H/stride,W/stride]."""
        x, maps, stride = self.stem(x), [], self.stem_stride
        for stage in self.stages:
            x, stride = stage(x), 2 * stride
            if stride in self.strides:
                maps.append(x)
        return maps


class FPN(nn.Module):
    """Carry what the coarse maps know up to the fine ones: maps in, maps out, finest first.

    Each level convolves five times. What the coarser level found is halved in channels, enlarged to
    the size of the finer map and put beside the map of the backbone.

    Args:
        channels: Of the backbone's maps, finest first, each twice the one before.
        activation: Makes the activation of each convolution.
    """

    def __init__(self, channels: Sequence[int], activation: Activation = leaky) -> None:
        super().__init__()
        self.channels = tuple(c // 2 for c in channels)  # of the maps that come out
        coarsest = len(channels) - 1
        self.mix = nn.ModuleList(
            # What comes from above has a quarter of that level's channels, half of this one's.
            convolve_five(c if level == coarsest else c + c // 2, c // 2, activation)
            for level, c in enumerate(channels)
        )
        self.lead = nn.ModuleList(
            Conv(c, c // 2, 1, activation=activation()) for c in self.channels[1:]
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map [N,C,H,W] of each level to [N,C/2,H,W]."""
        out = [self.mix[-1](maps[-1])]
        for level in reversed(range(len(maps) - 1)):  # from coarse to fine
            # To the size of the finer map, not times two: an odd side was rounded up on its way.
            lead, size = self.lead[level](out[0]), maps[level].shape[2:]
            above = interpolate(lead, size=size, mode="nearest")
            out.insert(0, self.mix[level](torch.cat([above, maps[level]], 1)))
        return out


class YOLOv3(nn.Module):
    """Map images [N,3,H,W] to a map [N,anchors*(5+num_classes),H/stride,W/stride] per stride.

    For each anchor: x and y (their sigmoid is the centre, in cells from the cell's corner), w and h
    (their exponential is a factor on the anchor), objectness, classes: all logits. With 80 classes
    it has 61,949,149 parameters.

    Args:
        num_classes: How many classes.
        anchors: How many anchors each level has: 3, or v2's 5 with ``strides=(32,)``.
        strides: Of the levels, finest first, each twice the one before.
        depths: Residual blocks per stage of the backbone. Each stage halves the map, so there are
            as many as halvings from the stem to the coarsest stride.
        width: Factor on all channels.
        activation: Makes the activation of each convolution.
        stem_stride: Of the first convolution; see :class:`Darknet53`.
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
        activation: Activation = leaky,
        stem_stride: int = 1,
        eps: float = 1e-5,
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        counts = {"num_classes": num_classes, "anchors": anchors, "stem_stride": stem_stride}
        refuse_counts("YOLOv3", counts | {f"depths[{i}]": n for i, n in enumerate(depths)})
        refuse_factors("YOLOv3", {"width": width})
        refuse_bad_levels(strides, depths, stem_stride)
        self.num_classes, self.anchors, self.strides = num_classes, anchors, tuple(strides)
        self.backbone = Darknet53(strides, depths, width, activation, stem_stride)
        self.neck = FPN(self.backbone.channels, activation)
        self.head = nn.ModuleList(
            make_head(c, anchors, num_classes, activation) for c in self.neck.channels
        )
        set_norms(self, eps, momentum)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images [N,3,H,W] in [0,1] to a map per stride; sides that do not divide round up."""
        maps = self.neck(self.backbone(images))
        return tuple(head(x) for head, x in zip(self.head, maps, strict=True))


def convolve_five(c_in: int, c_out: int, activation: Activation) -> nn.Sequential:
    """Alternate 1x1 (to ``c_out``) and 3x3 (to twice that) five times, 1x1 first and last."""
    return nn.Sequential(
        Conv(c_in, c_out, 1, activation=activation()),
        Conv(c_out, 2 * c_out, 3, activation=activation()),
        Conv(2 * c_out, c_out, 1, activation=activation()),
        Conv(c_out, 2 * c_out, 3, activation=activation()),
        Conv(2 * c_out, c_out, 1, activation=activation()),
    )


def make_head(
    c_in: int, anchors: int, num_classes: int, activation: Activation = leaky
) -> nn.Sequential:
    """Predict from a map [N,c_in,H,W]: a 3x3 convolution, and a 1x1 to [N,A*(5+C),H,W].

    Objectness starts at 1 in 100, since nearly all places are background. The program of the
    authors starts it at 1 in 2; the choice is ours, after Lin et al. 2017, arXiv:1708.02002.
    """
    last = nn.Conv2d(2 * c_in, anchors * (5 + num_classes), 1)
    assert last.bias is not None
    with torch.no_grad():
        last.bias.view(anchors, -1)[:, 4] = -math.log(99)
    return nn.Sequential(Conv(c_in, 2 * c_in, 3, activation=activation()), last)


def scale(channels: int, width: float) -> int:
    """Return the channels of a narrower network: even, because blocks halve them."""
    return max(4, 2 * round(channels * width / 2))


def refuse_bad_levels(strides: Sequence[int], depths: Sequence[int], stem_stride: int) -> None:
    """Raise unless the strides double and the stages reach the coarsest of them."""
    doubling = all(b == 2 * a for a, b in pairwise(strides))
    reached = stem_stride * 2 ** len(depths)
    if not strides or not doubling or strides[-1] != reached:
        raise ValueError(
            "YOLO: expected strides that double, such as (8, 16, 32), and one depth per halving up "
            f"to the coarsest, got strides={tuple(strides)}, but {len(depths)} depths after a stem "
            f"of stride {stem_stride} reach {reached}"
        )
