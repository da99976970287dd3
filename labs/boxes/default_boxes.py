"""Lay SSD's default boxes over an image: some shapes at each cell of each map.

After Liu et al. 2016, "SSD: Single Shot MultiBox Detector", https://arxiv.org/abs/1512.02325,
section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labs.boxes.grid import cell_centres
from labs.boxes.references import lay, refuse_other_levels


@dataclass(frozen=True)
class DefaultBoxes:
    """Give each cell a square of the level's scale, a larger square, and the shapes of its ratios.

    The larger square's side is the geometric mean of this level's scale and the next one's. Of each
    ratio there are two boxes: one lies, one stands.

    Attributes:
        scales: Side of each level's square as a fraction of the image, and one more at the end.
        ratios: Of each level, width by height of the boxes that lie, such as ``(2, 3)``.
        strides: Pixels from cell to cell of each level; ``None`` divides the image by the map.
        clip: Whether no box is wider or higher than the image.
    """

    scales: Sequence[float]
    ratios: Sequence[Sequence[float]]
    strides: Sequence[float] | None = None
    clip: bool = True

    def __post_init__(self) -> None:
        levels = len(self.ratios)
        if len(self.scales) != levels + 1 or not all(s > 0 for s in self.scales):
            raise ValueError(
                f"DefaultBoxes: expected {levels + 1} scales above 0, one per level and one more, "
                f"got {tuple(self.scales)}; the last is only for the larger square"
            )
        if self.strides is not None and len(self.strides) != levels:
            raise ValueError(
                f"DefaultBoxes: expected {levels} strides, one per level, got {tuple(self.strides)}"
            )

    @property
    def counts(self) -> list[int]:
        """Return how many boxes a cell of each level has."""
        return [2 + 2 * len(ratios) for ratios in self.ratios]

    def shapes(self, level: int) -> list[tuple[float, float]]:
        """Return width and height of a level's boxes, as fractions of the image."""
        scale, following = self.scales[level], self.scales[level + 1]
        larger = math.sqrt(scale * following)
        found = [(scale, scale), (larger, larger)]
        for ratio in self.ratios[level]:
            long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            found += [(long, short), (short, long)]
        return [(min(w, 1.0), min(h, 1.0)) for w, h in found] if self.clip else found

    def __call__(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return the boxes of all levels in one list, row by row, cell by cell: [P,4].

        Args:
            maps: One per level, [N,C,H,W]; only their shapes and their device are used.
            size: Height and width of the images in pixels.

        Raises:
            ValueError: When there is another number of maps.
        """
        refuse_other_levels("DefaultBoxes", maps, len(self.ratios))
        return torch.cat([self._level(index, one, size) for index, one in enumerate(maps)])

    def _level(self, index: int, one: Tensor, size: tuple[int, int]) -> Tensor:
        rows, columns = one.shape[-2:]
        height, width = size
        step = (width / columns, height / rows)
        if self.strides is not None:
            step = (self.strides[index],) * 2
        like = one.new_empty(0, dtype=torch.float32)
        centres = cell_centres(rows, columns, like) * like.new_tensor(step)
        return lay(centres, like.new_tensor(self.shapes(index)) * like.new_tensor((width, height)))
