"""Fit pictures of any size into one size, and bring boxes back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from labs.data.augment.augmented import Augmented
from labs.data.augment.window import GREY, Example, cut, resize
from labs.data.scenes.coco import Labelled


def letterbox(example: Example, size: tuple[int, int], fill: float = GREY) -> Example:
    """Scale a picture, keeping its shape, so that it just fits, and fill the room around it.

    Args:
        example: A picture [C,H,W] and its truth.
        size: Height and width of the result.
        fill: In [0, 1].
    """
    h, w = _scaled(tuple(example[0].shape[1:]), size)
    left, top = (size[1] - w) // 2, (size[0] - h) // 2
    corners = (-left, -top, size[1] - left, size[0] - top)
    return cut(resize(example, (h, w)), corners, fill=fill)


def unletterbox(boxes: Tensor, original: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return boxes [n,4] found in a letterboxed picture, in pixels of the original, clipped to it.

    Args:
        boxes: In pixels of the letterboxed picture.
        original: Height and width of the picture that was letterboxed.
        size: Height and width it was letterboxed to.
    """
    h, w = _scaled(original, size)
    left, top = (size[1] - w) // 2, (size[0] - h) // 2
    scale = torch.tensor([original[1] / w, original[0] / h] * 2, device=boxes.device)
    back = (boxes - torch.tensor([left, top, left, top], device=boxes.device)) * scale
    most = torch.tensor([original[1], original[0]] * 2, device=boxes.device)
    return back.clamp(min=0).minimum(most.to(back.dtype))


def letterboxed(dataset: Labelled, size: tuple[int, int], fill: float = GREY) -> Augmented:
    """Return the data set with every picture letterboxed, so that ``collate`` takes them."""
    return Augmented(dataset, partial(_first, size=size, fill=fill))


def _first(
    examples: Sequence[Example], _: np.random.Generator, size: tuple[int, int], fill: float
) -> Example:
    return letterbox(examples[0], size, fill)


def _scaled(original: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    if min(original) < 1 or min(size) < 1:
        raise ValueError(
            f"letterbox: expected sizes (height, width) >= 1, got {tuple(original)} into {size}"
        )
    factor = min(size[0] / original[0], size[1] / original[1])
    h, w = (max(1, round(side * factor)) for side in original)
    return h, w
