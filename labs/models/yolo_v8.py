"""YOLOv8: an anchor-free detector with a decoupled head (Ultralytics 2023, without a paper).

Written from its published drawings and counts, not from its program. Backbone, neck, head::

    image --> stem --> stage --> stage --> stage --> stage --> SPPF       each halves the side
                       /4        /8        /16       /32        |
                                  |         |                   |
                                  |         +<------- up -------+         top down: what it is
                                  +<-- up --+                   |
                                  |         |                   |
                                  +- down ->+------- down ----->+         bottom up: where it is
                                  v         v                   v
                                 head      head                head       sides and classes

The head says at each cell how far it is to the four sides of the object, each as a distribution
over whole numbers of cells (Li et al. 2020), and how likely each class is. There is no objectness
and no anchor.
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

from labs.models.blocks import SPPF, Bottleneck, Conv, set_norms
from labs.models.settings import refuse_counts, refuse_factors


@dataclass(frozen=True)
class Scale:
    """Hold what makes a YOLOv8 large or small.

    Attributes:
        depth: Multiplies how often blocks are repeated.
        width: Multiplies channels.
        most: Channels before multiplying are cut to this.
    """

    depth: float
    width: float
    most: int


SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        "n": Scale(0.33, 0.25, 1024),
        "s": Scale(0.33, 0.50, 1024),
        "m": Scale(0.67, 0.75, 768),
        "l": Scale(1.00, 1.00, 512),
        "x": Scale(1.00, 1.25, 512),
    }
)


class C2f(nn.Module):
    """Split, send one half through bottlenecks in a row, and stack what each of them made.

    It is a cross-stage partial block (Wang et al. 2020) in which every bottleneck has its own short
    way to the output, as in ELAN (Wang et al. 2022).

    Args:
        c_in: Channels that come in.
        c_out: Channels that go out.
        repeats: Bottlenecks in a row.
        shortcut: Whether each bottleneck adds its input: yes in the backbone, no in the neck.
    """

    def __init__(self, c_in: int, c_out: int, repeats: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        half = c_out // 2
        self.split = Conv(c_in, 2 * half)
        self.blocks = nn.ModuleList(
            Bottleneck(half, half, kernels=(3, 3), shortcut=shortcut) for _ in range(repeats)
        )
        self.mix = Conv((2 + repeats) * half, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,C_in,H,W] to [N,C_out,H,W]."""
        parts = list(self.split(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.mix(torch.cat(parts, 1))


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
        self.stem = Conv(in_channels, channels[0], 3, stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(Conv(before, after, 3, stride=2), C2f(after, after, count, shortcut=True))
            for (before, after), count in zip(pairwise(channels), repeats, strict=True)
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
        self.up = nn.ModuleList(C2f(fine + coarse, fine, repeats) for fine, coarse in pairs)
        self.down = nn.ModuleList(Conv(fine, fine, 3, stride=2) for fine, _ in pairs)
        self.merge = nn.ModuleList(C2f(fine + coarse, coarse, repeats) for fine, coarse in pairs)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map feature maps to as many of the same sizes, finest first."""
        out = list(maps)
        for i in reversed(range(len(self.up))):
            # To the size of the finer map, not times two: an odd side was rounded up on its way.
            coarse = interpolate(out[i + 1], size=out[i].shape[2:], mode="nearest")
            out[i] = self.up[i](torch.cat([coarse, out[i]], 1))
        for i, (down, merge) in enumerate(zip(self.down, self.merge, strict=True)):
            out[i + 1] = merge(torch.cat([down(out[i]), out[i + 1]], 1))
        return out


class _Branch(nn.Sequential):
    """Answer one question at each cell of one level: two 3x3 convolutions and a linear one."""

    def __init__(self, c_in: int, hidden: int, c_out: int) -> None:
        super().__init__(
            Conv(c_in, hidden, 3), Conv(hidden, hidden, 3), nn.Conv2d(hidden, c_out, 1)
        )


class Head(nn.Module):
    """Answer "where are the sides" and "which class" in separate branches, level by level.

    Args:
        channels: Of the maps, finest first.
        num_classes: Classes, C.
        reg_max: Bins of the distribution of a side, for 0 to ``reg_max - 1`` cells.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, reg_max: int) -> None:
        super().__init__()
        for_sides = max(16, channels[0] // 4, 4 * reg_max)
        for_classes = max(channels[0], min(num_classes, 100))
        self.sides = nn.ModuleList(_Branch(c, for_sides, 4 * reg_max) for c in channels)
        self.classes = nn.ModuleList(_Branch(c, for_classes, num_classes) for c in channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map feature maps to logits [N, 4*reg_max + C, H, W]."""
        branches = zip(maps, self.sides, self.classes, strict=True)
        return tuple(torch.cat([sides(x), classes(x)], 1) for x, sides, classes in branches)

    def start_at(self, prior: Sequence[float]) -> None:
        """Let every class begin at a probability, level by level, and every side at 1."""
        for sides, classes, p in zip(self.sides, self.classes, prior, strict=True):
            nn.init.ones_(sides.get_parameter("2.bias"))
            nn.init.constant_(classes.get_parameter("2.bias"), math.log(p / (1 - p)))


class MaskHead(nn.Module):
    """Draw prototypes of masks, and say at each cell how to mix them (YOLACT, Bolya et al. 2019).

    Args:
        channels: Of the maps, finest first.
        hidden: Channels while drawing.
        prototypes: How many, M.
    """

    def __init__(self, channels: Sequence[int], hidden: int, prototypes: int = 32) -> None:
        super().__init__()
        self.prototypes = nn.Sequential(
            Conv(channels[0], hidden, 3),
            nn.ConvTranspose2d(hidden, hidden, 2, stride=2),  # learns to double the side
            Conv(hidden, hidden, 3),
            Conv(hidden, prototypes),
        )
        mixing = max(channels[0] // 4, prototypes)
        self.coefficients = nn.ModuleList(_Branch(c, mixing, prototypes) for c in channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return the coefficients of each level, [N,M,H,W], and prototypes [N,M,2H_0,2W_0]."""
        mixes = [branch(x) for branch, x in zip(self.coefficients, maps, strict=True)]
        return mixes, self.prototypes(maps[0])


class YOLOv8(nn.Module):
    """Map images [N,in_channels,H,W] in [0,1] to raw outputs, one map per stride.

    Sides stay multiples of the coarsest stride where possible; others are rounded up on the way.
    With 80 classes, scale ``"n"`` has 3,157,184 parameters that learn. The published 3,157,200 also
    count the numbers 0 to 15, which are kept as a frozen convolution there.

    Args:
        num_classes: Classes, C.
        scale: ``"n"``, ``"s"``, ``"m"``, ``"l"`` or ``"x"``.
        masks: Also predict masks.
        width: Multiplies channels (64, 128, … from stride 2 on); the scale's when None.
        depth: Multiplies how often blocks are repeated; the scale's when None.
        strides: Of the levels, finest first; each twice the one before, from 4 on. The backbone
            ends at the last one.
        reg_max: Bins of the distribution of a side; the farthest side is ``reg_max - 1`` cells off.
        image_size: Side in pixels of the images to come. Class logits begin where each level
            expects five objects in such an image, as in the original, where it is always 640.
        in_channels: Channels of the images.
        eps: Of every batch norm; weights learnt with one eps are wrong with another.
        momentum: Weight of a new batch in the running statistics of every batch norm.

    Attributes:
        strides: As given.
        reg_max: As given.

    Raises:
        ValueError: When the scale is unknown, the strides do not double, or a count or factor is
            not above 0.
    """

    def __init__(
        self,
        num_classes: int = 80,
        scale: str = "n",
        masks: bool = False,
        *,
        width: float | None = None,
        depth: float | None = None,
        strides: Sequence[int] = (8, 16, 32),
        reg_max: int = 16,
        image_size: int = 640,
        in_channels: int = 3,
        eps: float = 1e-3,
        momentum: float = 0.03,
    ) -> None:
        super().__init__()
        _refuse(scale, strides)
        self.strides, self.reg_max = tuple(strides), reg_max
        self.num_classes = num_classes
        width = SCALES[scale].width if width is None else width
        depth = SCALES[scale].depth if depth is None else depth
        counts = {"num_classes": num_classes, "reg_max": reg_max, "in_channels": in_channels}
        refuse_counts("YOLOv8", counts)
        refuse_factors("YOLOv8", {"width": width, "depth": depth, "image_size": image_size})

        def channels(count: int) -> int:
            return 8 * math.ceil(min(count, SCALES[scale].most) * width / 8)

        stages = int(math.log2(strides[-1]))  # 5 for stride 32, the stem included
        widths = [channels(64 * 2**i) for i in range(stages)]
        # 3, 6, 6, 3 at paper scale: most is thought where there is both room and detail.
        repeats = [max(round(n * depth), 1) for n in (3, *[6] * (stages - 3), 3)[: stages - 1]]
        levels = widths[-len(strides) :]
        self.backbone = Backbone(widths, repeats, len(strides), in_channels)
        self.neck = Neck(levels, max(round(3 * depth), 1))
        self.head = Head(levels, num_classes, reg_max)
        self.mask_head = MaskHead(levels, channels(256)) if masks else None
        expected = [5 / num_classes / (image_size / s) ** 2 for s in strides]
        self.head.start_at([min(p, 0.5) for p in expected])
        set_norms(self, eps, momentum)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images to logits [N, 4*reg_max + C, H/stride, W/stride] per level, finest first.

        The first channels are l, t, r, b, each with its ``reg_max`` bins; then come the classes.
        With masks each map has M more channels, the mixing coefficients, and the tuple one more
        entry, the prototypes [N,M,2H_0,2W_0].
        """
        maps = self.neck(self.backbone(images))
        raw = self.head(maps)
        if self.mask_head is None:
            return raw
        mixes, prototypes = self.mask_head(maps)
        return *(torch.cat(pair, 1) for pair in zip(raw, mixes, strict=True)), prototypes


def _refuse(scale: str, strides: Sequence[int]) -> None:
    if scale not in SCALES:
        raise ValueError(f"YOLOv8: expected a scale of {', '.join(SCALES)}, got {scale!r}")
    wanted = [strides[0] * 2**i for i in range(len(strides))] if strides else []
    if not strides or list(strides) != wanted or strides[0] not in (4, 8, 16, 32):
        raise ValueError(
            f"YOLOv8: expected strides that double, from 4 on, such as (8, 16), got {strides}"
        )
