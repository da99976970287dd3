"""Describe YOLOv8 to the sanity tests."""

from functools import partial

import torch
from torch.nn.functional import avg_pool2d

from labs.criteria import YOLOv8Criterion
from labs.models import YOLOv8
from labs.postprocess import YOLOv8Postprocess
from tests.criteria.version import CLASSES, SIZE, Version

STRIDES, BINS = (8, 16), 16
SURE = 12.0


def encode(targets, height, width, masks=False):
    """Let one cell speak for each object: the finest whose distributions reach its sides."""
    extra = 32 if masks else 0
    shape = [len(targets), 4 * BINS + CLASSES + extra]
    maps = [torch.full([*shape, height // s, width // s], -SURE) for s in STRIDES]
    if masks:
        for one in maps:
            one[:, 4 * BINS + CLASSES :] = 0
    shapes = torch.full([len(targets), extra, height // 4, width // 4], -4.0)
    for i, target in enumerate(targets):
        for j, (box, label) in enumerate(zip(target["boxes"], target["labels"], strict=True)):
            x1, y1, x2, y2 = box.tolist()
            level = 0 if max(x2 - x1, y2 - y1) < 80 else 1
            stride = STRIDES[level]
            column, row = int((x1 + x2) / 2 // stride), int((y1 + y2) / 2 // stride)
            x, y = (column + 0.5) * stride, (row + 0.5) * stride
            cell = maps[level][i, :, row, column]
            for side, length in enumerate((x - x1, y - y1, x2 - x, y2 - y)):
                cell[BINS * side : BINS * (side + 1)] = split(length / stride)
            cell[4 * BINS + label] = SURE
            if masks:
                for one, s in zip(maps, STRIDES, strict=True):  # all its cells draw the same mask
                    inside = target["masks"][j, s // 2 :: s, s // 2 :: s]
                    one[i, 4 * BINS + CLASSES :, inside] = torch.eye(extra)[j][:, None]
                shapes[i, j] = avg_pool2d(target["masks"][j : j + 1].float(), 4)[0] * 8 - 4
    return (*maps, shapes) if masks else tuple(maps)


def split(length):
    """Return logits of the distribution over whole numbers whose mean is the length."""
    share = (1 - (torch.arange(BINS) - length).abs()).clamp(min=0)
    return share.clamp(min=1e-12).log()


def network(masks):
    return YOLOv8(CLASSES, masks=masks, width=0.125, strides=STRIDES, image_size=SIZE)


def version(masks):
    return Version(
        partial(network, masks),
        YOLOv8Criterion(CLASSES, STRIDES),
        YOLOv8Postprocess(CLASSES, STRIDES),
        partial(encode, masks=masks),
    )
