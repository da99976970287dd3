"""Cut a window out of a picture, or around it, together with its objects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from labs.data.scenes.truth import Target, tight_boxes

Example = tuple[Tensor, Target]
_FOLLOWING = ("boxes", "labels", "masks", "track_ids", "iscrowd", "ignore")
GREY = 114 / 255  # what fills the room around a picture; a common choice, near a mean photograph


def following(target: Target) -> Target:
    """Return the part of a truth that follows its objects; each entry has one row per object."""
    return {name: target[name] for name in _FOLLOWING if name in target}


def chosen(target: Target, keep: Tensor) -> Target:
    """Return the truth of the objects where ``keep`` [n], bool, is true."""
    return {name: rows[keep] for name, rows in target.items()}


def joined(targets: Sequence[Target]) -> Target:
    """Return the objects of several truths as one, with the entries that all of them have."""
    names = [name for name in targets[0] if all(name in target for target in targets)]
    return {name: torch.cat([target[name] for target in targets]) for name in names}


def resize(example: Example, size: tuple[int, int]) -> Example:
    """Return the picture at height and width ``size``, and what follows; boxes stay exact."""
    image, target = example[0], following(example[1])
    h, w = image.shape[1:]
    if (h, w) == size:
        return image, target
    small = interpolate(image[None], size, mode="bilinear", antialias=True)[0].clamp_(0, 1)
    factors = torch.tensor([size[1] / w, size[0] / h] * 2)
    target["boxes"] = target["boxes"] * factors
    if "masks" in target:
        masks = target["masks"][:, None].byte()  # [n,1,H,W]
        target["masks"] = interpolate(masks, size, mode="nearest-exact")[:, 0].bool()
    return small, target


def cut(
    example: Example,
    corners: tuple[int, int, int, int],
    *,
    fill: float = GREY,
    min_visible: float = 0.0,
    tight: bool = True,
) -> Example:
    """Return what a window shows; it may reach beyond the picture, which ``fill`` surrounds.

    Args:
        example: A picture [C,H,W] and its truth.
        corners: x1, y1, x2, y2 of the window in pixels of the picture; they must overlap.
        fill: In [0, 1].
        min_visible: Objects of which a smaller part is left are dropped: a part of the pixels of
            their mask, or of the area of their box where there are no masks. What is left without
            area is dropped in any case.
        tight: Whether the box of an object that is cut is drawn anew around its mask, if there
            are masks; otherwise it is the old box, clipped.
    """
    image, target = example[0], following(example[1])
    (h, w), (x1, y1, x2, y2) = image.shape[1:], corners
    room = [-x1, x2 - w, -y1, y2 - h]  # left, right, top, bottom; negative ones are cut off
    before, boxes = target["boxes"], target["boxes"].clone()
    # What is seen of the picture; the window may be larger than it.
    boxes[:, 0::2] = boxes[:, 0::2].clamp(max(0, x1), min(w, x2)) - x1
    boxes[:, 1::2] = boxes[:, 1::2].clamp(max(0, y1), min(h, y2)) - y1
    target["boxes"], share = boxes, _area(boxes) / _area(before).clamp(min=1e-12)
    if "masks" in target:
        pixels = target["masks"].sum((1, 2))
        target["masks"] = pad(target["masks"], room)
        share = target["masks"].sum((1, 2)) / pixels.clamp(min=1)
    keep = (share > 0) & (share >= min_visible) & (_area(boxes) > 0)
    target = chosen(target, keep)
    if tight and "masks" in target:
        redraw(target, share[keep] < 1)
    return pad(image, room, value=fill), target


def redraw(target: Target, which: Tensor) -> None:
    """Put new boxes around the masks, none of them empty, of the objects ``which`` [n], bool."""
    found = torch.from_numpy(tight_boxes(target["masks"][which].numpy()))
    target["boxes"] = target["boxes"].clone()
    target["boxes"][which] = found.to(target["boxes"].dtype)


def moved(target: Target, dx: int, dy: int, size: tuple[int, int]) -> Target:
    """Return the truth of a picture that is laid at ``dx, dy`` on an empty one of this size."""
    target = dict(target)
    target["boxes"] = target["boxes"] + torch.tensor([dx, dy, dx, dy])
    if "masks" in target:
        h, w = target["masks"].shape[1:]
        target["masks"] = pad(target["masks"], [dx, size[1] - w - dx, dy, size[0] - h - dy])
    return target


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
