"""YOLOv7: plan the gradient path (Wang, Bochkovskiy, Liao 2022, https://arxiv.org/abs/2207.02696).

Written from the paper and the published tables of layers. Backbone, neck, head::

    image --> stem --> ELAN --> ELAN --> ELAN --> ELAN --> SPPCSPC        MP halves the side between
                       /4       /8       /16      /32        |
                                 |        |                 1x1
                                1x1      1x1 <---- up -------+            top down: what it is
                                 |        |                  |
                                 +<- up --+                  |
                                 +- MP -->+------- MP ------>+            bottom up: where it is
                                 v        v                  v
                              RepConv  RepConv            RepConv
                                 v        v                  v
                                1x1      1x1                1x1           a box per anchor

The network to train and the network to run are two things: :meth:`YOLOv7.fuse` turns the first,
with batch norms, parallel branches and implicit knowledge, into the second, of plain convolutions.
The boxes are coded as in YOLOv5; :mod:`labs.boxes.anchored` says how.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from labs.models.anchored import refuse_strides, start_at_prior
from labs.models.blocks import Conv, set_norms
from labs.models.fusion import ImplicitConv, RepConv, fuse
from labs.models.settings import refuse_counts, refuse_factors

# Width and height in pixels, for images of 640 pixels of COCO: three a level, finest level first.
COCO_ANCHORS = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
# At each stride: channels inside and at the end of the backbone's ELAN, and at the end of the neck.
_CHANNELS = {4: (64, 256, 64), 8: (128, 512, 128), 16: (256, 1024, 256), 32: (256, 1024, 512)}


Block = Callable[..., nn.Module]  # ELAN or ExtendedELAN


class ELAN(nn.Module):
    """Stack what layers of different depth made: an efficient layer aggregation network.

    Two 1x1 convolutions start side by side, and 3x3 convolutions follow the second in a row. The
    stack takes both starts and what every pair of the row made, so each layer has a short way to
    the loss, and the layers of the row have ways of different length. As in the published table of
    layers, the deepest comes first and ``around`` last.

    Args:
        c_in: Channels that come in.
        c_out: Channels that go out.
        hidden: Channels of the 1x1 convolutions.
        inner: Channels of the 3x3 convolutions; ``hidden`` when None.
        pairs: Half the number of 3x3 convolutions.
        every: Stack what every 3x3 convolution made, not every second, as the neck does.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        hidden: int,
        inner: int | None = None,
        pairs: int = 2,
        every: bool = False,
    ) -> None:
        super().__init__()
        inner = hidden if inner is None else inner
        self.step = 1 if every else 2
        self.around = Conv(c_in, hidden)
        self.start = Conv(c_in, hidden)
        sizes = [hidden] + 2 * pairs * [inner]
        self.row = nn.ModuleList(Conv(before, after, 3) for before, after in pairwise(sizes))
        self.mix = Conv(2 * hidden + 2 * pairs // self.step * inner, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,C_in,H,W] to [N,C_out,H,W]."""
        around, made = self.around(x), [self.start(x)]
        for layer in self.row:
            made.append(layer(made[-1]))
        return self.mix(torch.cat([*reversed(made[:: self.step]), around], 1))


class ExtendedELAN(nn.Module):
    """Learn more features on the same gradient paths: E-ELAN, the block of YOLOv7-E6E.

    *Expand*: every convolution has ``groups`` times the channels, in as many groups: the
    cardinality. *Shuffle*: the stack is sorted by group, so that each group finds the layers of
    its own ELAN. *Merge*: the groups are added. So the block equals ``groups`` ELANs side by side,
    added up, in grouped convolutions.

    Args:
        c_in: Channels that come in.
        c_out: Channels that go out.
        hidden: Channels of the 1x1 convolutions, per group.
        inner: Channels of the 3x3 convolutions, per group; ``hidden`` when None.
        pairs: Half the number of 3x3 convolutions.
        every: Stack what every 3x3 convolution made, not every second.
        groups: The cardinality, g.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        hidden: int,
        inner: int | None = None,
        pairs: int = 2,
        every: bool = False,
        groups: int = 2,
    ) -> None:
        super().__init__()
        inner = hidden if inner is None else inner
        self.step, self.groups = 1 if every else 2, groups
        self.around = Conv(c_in, groups * hidden)
        self.start = Conv(c_in, groups * hidden)
        sizes = [groups * hidden] + 2 * pairs * [groups * inner]
        self.row = nn.ModuleList(
            Conv(before, after, 3, groups=groups) for before, after in pairwise(sizes)
        )
        stacked = 2 * hidden + 2 * pairs // self.step * inner
        self.mix = Conv(groups * stacked, groups * c_out, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,C_in,H,W] to [N,C_out,H,W]."""
        around, made = self.around(x), [self.start(x)]
        for layer in self.row:
            made.append(layer(made[-1]))
        stack = [*reversed(made[:: self.step]), around]
        parts = [part.unflatten(1, (self.groups, -1)) for part in stack]
        mixed = self.mix(torch.cat(parts, 2).flatten(1, 2))  # sorted by group: [N, g*stacked, H, W]
        return mixed.unflatten(1, (self.groups, -1)).sum(1)  # [N,g,C_out,H,W] to [N,C_out,H,W]


class MP(nn.Module):
    """Halve the side twice over, by max-pooling and by a strided convolution, and stack both.

    Args:
        c_in: Channels that come in.
        c_half: Channels of either way; twice as many go out.
    """

    def __init__(self, c_in: int, c_half: int) -> None:
        super().__init__()
        self.pooled = Conv(c_in, c_half)
        self.strided = nn.Sequential(Conv(c_in, c_half), Conv(c_half, c_half, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,C_in,H,W] to [N,2*c_half,H/2,W/2], rounded up."""
        pooled = self.pooled(max_pool2d(x, 2, ceil_mode=True))  # an odd side: up, as the other way
        return torch.cat([self.strided(x), pooled], 1)


class SPPCSPC(nn.Module):
    """Pool at several sizes between convolutions, and send the input around all that as well.

    Args:
        c_in: Channels that come in.
        c_out: Channels that go out, and between.
        kernels: Sides of the max-pools, odd.
    """

    def __init__(self, c_in: int, c_out: int, kernels: tuple[int, ...] = (5, 9, 13)) -> None:
        super().__init__()
        self.kernels = kernels
        self.around = Conv(c_in, c_out)
        self.before = nn.Sequential(Conv(c_in, c_out), Conv(c_out, c_out, 3), Conv(c_out, c_out))
        self.after = nn.Sequential(Conv((len(kernels) + 1) * c_out, c_out), Conv(c_out, c_out, 3))
        self.mix = Conv(2 * c_out, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,C_in,H,W] to [N,C_out,H,W]."""
        y = self.before(x)
        pooled = [max_pool2d(y, k, stride=1, padding=k // 2) for k in self.kernels]
        return self.mix(torch.cat([self.after(torch.cat([y, *pooled], 1)), self.around(x)], 1))


class Backbone(nn.Module):
    """Look at the image at coarser and coarser strides: 4, 8, ….

    Args:
        stem: Channels of the first convolution.
        hidden: Channels inside each ELAN, from stride 4 on.
        channels: Channels at the end of each ELAN.
        pairs: Pairs of 3x3 convolutions in each ELAN.
        block: :class:`ELAN` or :class:`ExtendedELAN`.
        in_channels: Channels of the images.
    """

    def __init__(
        self,
        stem: int,
        hidden: Sequence[int],
        channels: Sequence[int],
        pairs: int,
        block: Block,
        in_channels: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            Conv(in_channels, stem, 3),
            Conv(stem, 2 * stem, 3, stride=2),
            Conv(2 * stem, 2 * stem, 3),
            Conv(2 * stem, 4 * stem, 3, stride=2),
        )
        first = block(4 * stem, channels[0], hidden[0], pairs=pairs)
        self.stages = nn.ModuleList([first])
        for before, inside, after in zip(channels[:-1], hidden[1:], channels[1:], strict=True):
            halve = MP(before, before // 2)
            self.stages.append(nn.Sequential(halve, block(before, after, inside, pairs=pairs)))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map [N,in_channels,H,W] to the maps at strides 4, 8, …."""
        maps = [self.stem(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


class Neck(nn.Module):
    """Let every level know what the others saw: coarse to fine, and back (PANet, Liu et al. 2018).

    Args:
        c_in: Channels of the backbone's maps, finest first.
        channels: Channels of the maps that go out; each level has twice those of the finer one.
        pairs: Pairs of 3x3 convolutions in each ELAN.
        block: :class:`ELAN` or :class:`ExtendedELAN`.
    """

    def __init__(
        self, c_in: Sequence[int], channels: Sequence[int], pairs: int, block: Block
    ) -> None:
        super().__init__()

        def merge(before: int, c: int) -> nn.Module:
            return block(before, c, c, c // 2, pairs, every=True)

        self.pool = SPPCSPC(c_in[-1], channels[-1])
        self.narrow = nn.ModuleList(Conv(2 * c, c) for c in channels[:-1])
        self.across = nn.ModuleList(map(Conv, c_in[:-1], channels[:-1]))
        self.up = nn.ModuleList(merge(2 * c, c) for c in channels[:-1])
        self.down = nn.ModuleList(MP(c, c) for c in channels[:-1])
        self.merge = nn.ModuleList(merge(4 * c, 2 * c) for c in channels[:-1])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map the backbone's maps to as many of the same sizes, finest first."""
        out = [*maps[:-1], self.pool(maps[-1])]
        for i in reversed(range(len(self.up))):
            # To the size of the finer map, not times two: an odd side was rounded up on its way.
            coarse = interpolate(self.narrow[i](out[i + 1]), size=maps[i].shape[2:], mode="nearest")
            out[i] = self.up[i](torch.cat([self.across[i](maps[i]), coarse], 1))
        for i, (down, merge) in enumerate(zip(self.down, self.merge, strict=True)):
            out[i + 1] = merge(torch.cat([down(out[i]), out[i + 1]], 1))
        return out


class Head(nn.Module):
    """Answer for each anchor of each cell, level by level.

    Args:
        channels: Of the maps, finest first.
        answers: Numbers of each cell, A*(5+C).
    """

    def __init__(self, channels: Sequence[int], answers: int) -> None:
        super().__init__()
        self.rep = nn.ModuleList(RepConv(c, 2 * c) for c in channels)
        self.levels = nn.ModuleList(ImplicitConv(2 * c, answers) for c in channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map feature maps to raw outputs [N, A*(5+C), H, W]."""
        return tuple(
            level(rep(x)) for rep, level, x in zip(self.rep, self.levels, maps, strict=True)
        )


class YOLOv7(nn.Module):
    """Map images [N,in_channels,H,W] in [0,1] to raw outputs, one map per stride.

    With 80 classes it has 37,622,682 parameters, and 36,905,341 after :meth:`fuse`: the paper's
    36.9 million.

    Args:
        num_classes: Classes, C.
        extended: Build of :class:`ExtendedELAN` in place of :class:`ELAN`, as YOLOv7-E6E is built
            in place of E6.
        width: Multiplies channels.
        depth: Pairs of 3x3 convolutions in each ELAN.
        strides: Of the levels, finest first; each twice the one before, from 4 to 32. The backbone
            ends at the last one.
        anchors: Anchors of each cell, A.
        image_size: Side in pixels of the images to come. Objectness begins where each anchor of
            a level expects eight objects in such an image.
        in_channels: Channels of the images.
        eps: Of every batch norm; weights learnt with one eps are wrong with another.
        momentum: Weight of a new batch in the running statistics of every batch norm.

    Attributes:
        strides: As given.

    Raises:
        ValueError: When the strides do not double, or a count or factor is not above 0.
    """

    def __init__(
        self,
        num_classes: int = 80,
        *,
        extended: bool = False,
        width: float = 1.0,
        depth: int = 2,
        strides: Sequence[int] = (8, 16, 32),
        anchors: int = 3,
        image_size: int = 640,
        in_channels: int = 3,
        eps: float = 1e-3,
        momentum: float = 0.03,
    ) -> None:
        super().__init__()
        refuse_strides("YOLOv7", strides)
        counts = {"num_classes": num_classes, "anchors": anchors, "in_channels": in_channels}
        refuse_counts("YOLOv7", counts | {"depth": depth})
        refuse_factors("YOLOv7", {"width": width, "image_size": image_size})
        self.strides = tuple(strides)
        self.num_classes, self.anchors = num_classes, anchors
        block: Block = ExtendedELAN if extended else ELAN

        def scaled(counts: Iterable[int]) -> list[int]:
            return [8 * math.ceil(count * width / 8) for count in counts]

        below = [stride for stride in _CHANNELS if stride <= strides[-1]]
        hidden, inside = (scaled(_CHANNELS[stride][i] for stride in below) for i in (0, 1))
        # Each level of the neck has exactly twice the channels of the finer one.
        finest = scaled([_CHANNELS[strides[0]][2]])[0]
        channels = [finest * 2**i for i in range(len(strides))]
        self.backbone = Backbone(scaled([32])[0], hidden, inside, depth, block, in_channels)
        self.neck = Neck(inside[-len(strides) :], channels, depth, block)
        self.head = Head(channels, anchors * (5 + num_classes))
        biases = [level.get_parameter("conv.bias") for level in self.head.levels]
        start_at_prior(biases, strides, anchors, num_classes, image_size)
        set_norms(self, eps, momentum)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images to raw outputs [N, A*(5+C), H/stride, W/stride] per level, finest first.

        The numbers of an anchor stand together: x, y, w, h, objectness, classes.
        """
        return self.head(self.neck(self.backbone(images)[-len(self.strides) :]))

    def fuse(self) -> nn.Module:
        """Return the network to run; see :func:`labs.models.fusion.fuse`."""
        return fuse(self)
