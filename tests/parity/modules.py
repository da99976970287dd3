"""Run a table of rows (from, repeat, kind, arguments): how v5, v7 and v8 were published.

Row i names its weights ``model.i``. Nothing here knows of `labs`.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import conv_transpose2d

from tests.parity.plain import (
    activate,
    conv,
    conv_norm,
    enlarge,
    linear,
    pool,
    torch_norm,
)


@dataclass(frozen=True)
class Setting:
    """Hold what the same table is scaled by."""

    depth: float = 1.0
    width: float = 1.0
    most: float = math.inf  # of channels, before they are scaled
    classes: int = 80
    anchors: int = 3
    bins: int = 16

    def channels(self, c):
        """Scale to the next multiple of eight."""
        return math.ceil(min(c, self.most) * self.width / 8) * 8

    def repeats(self, n):
        """Scale how often a block is repeated; what is there once stays."""
        return max(round(n * self.depth), 1) if n > 1 else n


def run(table, w, images, setting):
    """Return what the last row makes of images [N,3,H,W]."""
    made, x = [], images
    for i, (source, repeat, kind, *args) in enumerate(table):
        many = isinstance(source, tuple)
        given = [made[j] if made else x for j in (source if many else (source,))]
        name = f"model.{i}"
        x = KINDS[kind](w, given if many else given[0], name, setting, repeat, *args)
        made.append(x)
    return x


def run_conv(w, x, name, setting, _, c, k=1, stride=1, padding=None):
    return conv(w, x, name, setting.channels(c), k, stride, padding)


def bottleneck(w, x, name, kernels, shortcut):
    y = conv(
        w, conv(w, x, f"{name}.cv1", x.shape[1], kernels[0]), f"{name}.cv2", x.shape[1], kernels[1]
    )
    return x + y if shortcut else y


def run_c3(w, x, name, setting, repeat, c, shortcut=True):
    c = setting.channels(c)
    y = conv(w, x, f"{name}.cv1", c // 2)
    for i in range(setting.repeats(repeat)):
        y = bottleneck(w, y, f"{name}.m.{i}", (1, 3), shortcut)
    return conv(w, torch.cat([y, conv(w, x, f"{name}.cv2", c // 2)], 1), f"{name}.cv3", c)


def run_c2f(w, x, name, setting, repeat, c, shortcut=False):
    c = setting.channels(c)
    y = conv(w, x, f"{name}.cv1", c)
    stack = [y[:, : c // 2], y[:, c // 2 :]]
    for i in range(setting.repeats(repeat)):
        stack.append(bottleneck(w, stack[-1], f"{name}.m.{i}", (3, 3), shortcut))
    return conv(w, torch.cat(stack, 1), f"{name}.cv2", c)


def run_sppf(w, x, name, setting, _, c, k):
    y = conv(w, x, f"{name}.cv1", x.shape[1] // 2)
    once = pool(y, k)
    twice = pool(once, k)
    return conv(
        w, torch.cat([y, once, twice, pool(twice, k)], 1), f"{name}.cv2", setting.channels(c)
    )


def run_sppcspc(w, x, name, setting, _, c):
    c = setting.channels(c)
    y = conv(w, conv(w, conv(w, x, f"{name}.cv1", c), f"{name}.cv3", c, 3), f"{name}.cv4", c)
    stack = torch.cat([y, pool(y, 5), pool(y, 9), pool(y, 13)], 1)
    y = conv(w, conv(w, stack, f"{name}.cv5", c), f"{name}.cv6", c, 3)
    return conv(w, torch.cat([y, conv(w, x, f"{name}.cv2", c)], 1), f"{name}.cv7", c)


def run_rep(w, x, name, setting, _, c, k, stride):
    c = setting.channels(c)
    y = conv_norm(w, x, f"{name}.rbr_dense", c, k, stride, parts=("0", "1"))
    y = y + conv_norm(w, x, f"{name}.rbr_1x1", c, 1, stride, parts=("0", "1"))
    if x.shape[1] == c and stride == 1:
        y = y + torch_norm(w, x, f"{name}.rbr_identity", 1e-3)
    return activate(y, "silu")


def run_anchored(w, maps, name, setting, _):
    c = setting.anchors * (5 + setting.classes)
    return [linear(w, x, f"{name}.m.{i}", c) for i, x in enumerate(maps)]


def run_implicit(w, maps, name, setting, _):
    c, out = setting.anchors * (5 + setting.classes), []
    for i, x in enumerate(maps):
        x = x + w(f"{name}.ia.{i}.implicit", 1, x.shape[1], 1, 1, scale=0.2)
        y = linear(w, x, f"{name}.m.{i}", c)
        out.append(y * w(f"{name}.im.{i}.implicit", 1, c, 1, 1, scale=0.2, shift=1.0))
    return out


def branch(w, x, name, hidden, c):
    y = conv(w, conv(w, x, f"{name}.0", hidden, 3), f"{name}.1", hidden, 3)
    return linear(w, y, f"{name}.2", c)


def run_sides(w, maps, name, setting, _):
    first, bins, out = maps[0].shape[1], setting.bins, []
    w.tensors[f"{name}.dfl.conv.weight"] = torch.arange(bins).double().view(1, bins, 1, 1)
    for i, x in enumerate(maps):
        sides = branch(w, x, f"{name}.cv2.{i}", max(16, first // 4, 4 * bins), 4 * bins)
        hidden = max(first, min(setting.classes, 100))
        out.append(torch.cat([sides, branch(w, x, f"{name}.cv3.{i}", hidden, setting.classes)], 1))
    return out


def run_masks(w, maps, name, setting, repeat, prototypes, drawn):
    raw, hidden = run_sides(w, maps, name, setting, repeat), setting.channels(drawn)
    y = conv(w, maps[0], f"{name}.proto.cv1", hidden, 3)
    kernel = w.kernel(f"{name}.proto.upsample.weight", hidden, hidden, 2)
    y = conv_transpose2d(y, kernel, w(f"{name}.proto.upsample.bias", hidden), 2)
    y = conv(w, conv(w, y, f"{name}.proto.cv2", hidden, 3), f"{name}.proto.cv3", prototypes)
    mixing = max(maps[0].shape[1] // 4, prototypes)
    mixes = [branch(w, x, f"{name}.cv4.{i}", mixing, prototypes) for i, x in enumerate(maps)]
    return [*(torch.cat(pair, 1) for pair in zip(raw, mixes, strict=True)), y]


KINDS = {
    "Conv": run_conv,
    "C3": run_c3,
    "C2f": run_c2f,
    "SPPF": run_sppf,
    "SPPCSPC": run_sppcspc,
    "RepConv": run_rep,
    "Concat": lambda w, maps, *_: torch.cat(maps, 1),
    "Upsample": lambda w, x, *_: enlarge(x),
    "MP": lambda w, x, *_: pool(x, 2, 2),
    "Detect with anchors": run_anchored,
    "IDetect": run_implicit,
    "Detect with sides": run_sides,
    "Segment": run_masks,
}
