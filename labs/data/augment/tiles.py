"""Put four pictures together to one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from labs.data.augment.window import Example, cut, joined, moved, resize


def mosaic(
    examples: Sequence[Example],
    generator: np.random.Generator,
    *,
    size: tuple[int, int],
    scale: tuple[float, float] = (0.5, 1.0),
    min_visible: float = 0.25,
    tight: bool = True,
) -> Example:
    """Lay four pictures around a point, each with a corner on it (Bochkovskiy et al., 2020).

    The point lies in the middle half of the result, and each picture is scaled by its own factor.
    What reaches beyond the result is cut off; what no picture reaches is grey. arXiv:2004.10934.

    Args:
        examples: Four: upper left, upper right, lower left, lower right. Their sizes may differ.
        generator: Draws the factors, then the point.
        size: Height and width of the result, at least 4.
        scale: Least and greatest factor, above 0.
        min_visible: Objects of which a smaller part is left are dropped; in [0, 1].
        tight: Whether boxes of cut objects are drawn anew around their masks, if there are masks.

    Raises:
        ValueError: When there are not four examples, or an argument is out of range.
    """
    if len(examples) != 4 or min(size) < 4 or not 0 < scale[0] <= scale[1]:
        raise ValueError(
            f"mosaic: expected 4 examples, size >= 4 and 0 < scale[0] <= scale[1], got "
            f"{len(examples)}, {size} and {scale}; use Augmented(dataset, ..., partners=3)"
        )
    tiles = [_shrunk(example, generator.uniform(*scale)) for example in examples]
    (height, width) = size
    y, x = (int(generator.integers(side // 4, side - side // 4 + 1)) for side in size)
    parts = []
    for k, tile in enumerate(tiles):
        h, w = tile[0].shape[1:]
        # The window, in pixels of the tile: left tiles end at x, right ones begin there.
        x1, x2 = (0, width - x) if k % 2 else (w - x, w)
        y1, y2 = (0, height - y) if k >= 2 else (h - y, h)
        parts.append(cut(tile, (x1, y1, x2, y2), min_visible=min_visible, tight=tight))
    upper, lower = (torch.cat([parts[k][0], parts[k + 1][0]], dim=2) for k in (0, 2))
    places = [(0, 0), (x, 0), (0, y), (x, y)]
    truths = [moved(part[1], *at, size) for part, at in zip(parts, places, strict=True)]
    return torch.cat([upper, lower], dim=1), joined(truths)


def _shrunk(example: Example, factor: float) -> Example:
    h, w = (max(1, round(side * factor)) for side in example[0].shape[1:])
    return resize(example, (h, w))
