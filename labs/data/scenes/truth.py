"""Draw a scene, and write down what is true of it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labs.data.scenes.layout import Layout, Pixels, Sprite

Target = dict[str, Tensor]


def draw(layout: Layout, frame: int = 0, noise: NDArray[np.int16] | None = None) -> Tensor:
    """Draw one frame, [3,H,W] of float32 in [0, 1], with noise [H,W,3] in steps of 1/255."""
    canvas = layout.background.copy()
    for sprite in layout.sprites:
        _paste(canvas, sprite, *sprite.path[frame])
    if noise is not None:
        canvas = np.clip(canvas + noise, 0, 255).astype(np.uint8)
    return torch.from_numpy(canvas.transpose(2, 0, 1).copy()).float().div_(255)


def describe(layout: Layout, frame: int = 0) -> Target:
    """Return what is true of one frame; objects without a visible pixel are left out.

    Returns:
        ``boxes`` and ``boxes_amodal`` [n,4], float32; ``labels`` [n] and ``track_ids`` [n], int64;
        ``masks`` and ``masks_amodal`` [n,H,W], bool; ``semantic`` [H,W], int64, 0 for background
        and label + 1 for objects; ``visible`` [n], float32, in (0, 1].
    """
    owner = layout.owners[frame]
    numbers = np.arange(len(layout.sprites), dtype=np.int16)
    masks: NDArray[np.bool_] = np.equal(owner, numbers[:, None, None])  # [n,H,W]
    amodal = np.zeros_like(masks)
    for whole, sprite in zip(amodal, layout.sprites, strict=True):
        (x, y), (h, w) = sprite.path[frame], sprite.mask.shape
        whole[y : y + h, x : x + w] = sprite.mask
    labels = np.array([sprite.label for sprite in layout.sprites], np.int64)
    semantic = np.append(labels + 1, 0)[owner]  # -1, nothing, takes the last
    kept = np.flatnonzero(masks.any((1, 2)))
    masks, amodal = masks[kept], amodal[kept]
    visible = masks.sum((1, 2)) / amodal.sum((1, 2))
    return {
        "boxes": torch.from_numpy(tight_boxes(masks)),
        "labels": torch.from_numpy(labels[kept]),
        "masks": torch.from_numpy(masks),
        "boxes_amodal": torch.from_numpy(tight_boxes(amodal)),
        "masks_amodal": torch.from_numpy(amodal),
        "semantic": torch.from_numpy(semantic),
        "visible": torch.from_numpy(visible.astype(np.float32)),
        "track_ids": torch.from_numpy(kept.astype(np.int64)),
    }


def tight_boxes(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the smallest boxes, [n,4], around masks [n,H,W] that each have a pixel."""
    columns: NDArray[np.bool_] = np.any(masks, axis=1)  # [n,W]
    rows: NDArray[np.bool_] = np.any(masks, axis=2)  # [n,H]
    x1, y1 = columns.argmax(1), rows.argmax(1)
    x2 = masks.shape[2] - columns[:, ::-1].argmax(1)
    y2 = masks.shape[1] - rows[:, ::-1].argmax(1)
    return np.stack([x1, y1, x2, y2], axis=1).astype(np.float32)


def _paste(canvas: Pixels, sprite: Sprite, left: int, top: int) -> None:
    h, w = sprite.alpha.shape
    window = canvas[top : top + h, left : left + w]
    through = (window.astype(np.uint16) * (255 - sprite.alpha)[..., None] + 127) // 255
    window[:] = np.minimum(255, sprite.colour + through)
