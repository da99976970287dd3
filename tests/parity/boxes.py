"""Decode what each version says about boxes, cell by cell, as its paper or program has it.

Nothing here knows of `labs`. Boxes are xyxy in pixels, [N,P,4].
"""

import torch


def corners(height, width, like):
    """Return column and row of each cell, [H*W,2]."""
    rows, columns = torch.arange(height).to(like), torch.arange(width).to(like)
    return torch.stack([columns.repeat(height), rows.repeat_interleave(width)], 1)


def as_xyxy(centre, size):
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def by_anchor(level, anchors, of_cell):
    """Return boxes of one level, anchor after anchor; ``of_cell`` decodes [N,4,H*W]."""
    boxes = []
    for anchor, part in zip(anchors, level.chunk(len(anchors), 1), strict=True):
        shape = torch.tensor(anchor).to(level)
        boxes.append(of_cell(part[:, :4].flatten(2).transpose(1, 2), shape))
    return torch.cat(boxes, 1)


def v3(maps, anchors, strides=(8, 16, 32)):
    """YOLO9000, figure 3: b_x = sigmoid(t_x) + c_x, b_w = p_w exp(t_w)."""
    boxes = []
    for level, shapes, stride in zip(maps, anchors, strides, strict=True):
        cells = corners(*level.shape[2:], level)

        def decode(t, shape, cells=cells, stride=stride):
            return as_xyxy((t[..., :2].sigmoid() + cells) * stride, shape * t[..., 2:].exp())

        boxes.append(by_anchor(level, shapes, decode))
    return torch.cat(boxes, 1)


def v5(maps, anchors, strides=(8, 16, 32)):
    """The documentation of v5: b_x = 2 sigmoid(t_x) - 0.5 + c_x, b_w = p_w (2 sigmoid(t_w))²."""
    boxes = []
    for level, shapes, stride in zip(maps, anchors, strides, strict=True):
        cells = corners(*level.shape[2:], level)

        def decode(t, shape, cells=cells, stride=stride):
            t = t.sigmoid()
            return as_xyxy((t[..., :2] * 2 - 0.5 + cells) * stride, shape * (2 * t[..., 2:]) ** 2)

        boxes.append(by_anchor(level, shapes, decode))
    return torch.cat(boxes, 1)


def v8(maps, bins=16, strides=(8, 16, 32)):
    """Generalized Focal Loss, equation 5: a side is the mean of a distribution over cells."""
    boxes = []
    for level, stride in zip(maps, strides, strict=True):
        centres = corners(*level.shape[2:], level) + 0.5
        logits = level[:, : 4 * bins].flatten(2).unflatten(1, (4, bins))  # [N,4,bins,H*W]
        numbers = torch.arange(bins).to(level).view(1, 1, -1, 1)
        sides = (logits.softmax(2) * numbers).sum(2).transpose(1, 2)  # l, t, r, b
        boxes.append(torch.cat([centres - sides[..., :2], centres + sides[..., 2:]], -1) * stride)
    return torch.cat(boxes, 1)


def v1(cells, boxes=2):
    """YOLO, section 2: x, y from the corner of the cell; roots of width, height in images."""
    _, _, rows, columns = cells.shape
    image = torch.tensor([64 * columns, 64 * rows]).to(cells)
    places = corners(rows, columns, cells)
    parts = cells[:, : 5 * boxes].flatten(2).transpose(1, 2).chunk(boxes, -1)
    found = [as_xyxy((p[..., :2] + places) * 64, p[..., 2:4] ** 2 * image) for p in parts]
    return torch.stack(found, 2).flatten(1, 2)  # cell after cell
