"""Paste objects of one picture onto another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from labs.data.augment.window import Example, chosen, cut, following, joined, redraw, resize
from labs.data.scenes.truth import Target


def copy_paste(
    examples: Sequence[Example],
    generator: np.random.Generator,
    *,
    share: float = 0.5,
    scale: tuple[float, float] = (0.5, 1.25),
    flip: float = 0.5,
    min_visible: float = 0.1,
) -> Example:
    """Paste some objects of the second picture onto the first (Ghiasi et al., 2021).

    The second picture is mirrored, scaled and laid somewhere over the first one; then of some of
    its objects the pixels are copied. Masks and boxes of what they hide shrink. arXiv:2012.07177;
    the edges are not blended, which the paper found to make no difference.

    Args:
        examples: Two, with ``masks``; the result has the size of the first.
        generator: Draws, in this order: mirror, factor, place, objects.
        share: How probable it is that an object is copied.
        scale: Least and greatest factor, above 0.
        flip: How probable it is that the second picture is mirrored.
        min_visible: Objects of which a smaller part is left, of either picture, are dropped.

    Raises:
        ValueError: When there are not two examples with masks, or an argument is out of range.
    """
    _refuse(examples, share, scale, flip)
    image, under = examples[0][0].clone(), following(examples[0][1])
    pasted, over = _laid(examples[1], tuple(image.shape[1:]), generator, scale, flip, min_visible)
    over = chosen(over, torch.from_numpy(generator.random(len(over["labels"])) < share))
    covered = over["masks"].any(0)
    image[:, covered] = pasted[:, covered]
    return image, joined([_hidden(under, covered, min_visible), over])


def _laid(
    example: Example,
    size: tuple[int, ...],
    generator: np.random.Generator,
    scale: tuple[float, float],
    flip: float,
    min_visible: float,
) -> Example:
    """Return the example mirrored, scaled, and cut or padded at random to this size."""
    if generator.random() < flip:
        example = _mirrored(example)
    factor = generator.uniform(*scale)
    h, w = (max(1, round(side * factor)) for side in example[0].shape[1:])
    y, x = (
        int(generator.integers(min(0, whole), max(0, whole) + 1))
        for whole in (h - size[0], w - size[1])
    )
    corners = (x, y, x + size[1], y + size[0])
    return cut(resize(example, (h, w)), corners, min_visible=min_visible)


def _mirrored(example: Example) -> Example:
    image, target = example[0].flip(2), following(example[1])
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    target["boxes"] = torch.stack([image.shape[2] - x2, y1, image.shape[2] - x1, y2], dim=1)
    target["masks"] = target["masks"].flip(2)
    return image, target


def _hidden(target: Target, covered: Tensor, min_visible: float) -> Target:
    """Return what is left of the objects where ``covered`` [H,W] hides them."""
    target, whole = dict(target), target["masks"].sum((1, 2))
    target["masks"] = target["masks"] & ~covered
    part = target["masks"].sum((1, 2)) / whole.clamp(min=1)
    keep = (part > 0) & (part >= min_visible)
    target = chosen(target, keep)
    redraw(target, part[keep] < 1)
    return target


def _refuse(
    examples: Sequence[Example], share: float, scale: tuple[float, float], flip: float
) -> None:
    if len(examples) != 2 or any("masks" not in target for _, target in examples):
        raise ValueError(
            f"copy_paste: expected 2 examples with masks, got {len(examples)} with "
            f"{[sorted(target) for _, target in examples]}; use partners=1, and masks"
        )
    if not (0 <= share <= 1 and 0 <= flip <= 1 and 0 < scale[0] <= scale[1]):
        raise ValueError(
            "copy_paste: expected share and flip in [0, 1] and 0 < scale[0] <= scale[1], got "
            f"share={share}, flip={flip}, scale={scale}"
        )
