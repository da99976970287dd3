"""Lay anchors over an image: the same few shapes at every cell of a level.

After Ren et al. 2015, "Faster R-CNN", https://arxiv.org/abs/1506.01497, section 3.1.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labs.boxes.grid import cell_corners
from labs.boxes.references import lay, refuse_other_levels


@dataclass(frozen=True)
class AnchorGrid:
    """Give every cell of a level one anchor of each of its sizes and of each ratio.

    Anchors may reach over the edge of the image. Of a cell come first all sizes of
    the first ratio, then all of the second, as in torchvision.

    Attributes:
        sizes: Square roots of the areas in pixels, of each level.
        ratios: Height by width.
        offset: Where in its cell an anchor is centred: 0 is the upper left corner, as in
            torchvision and in detectron, 0.5 the middle.
        rounded: Whether half the sides are rounded to whole pixels, as in torchvision.
    """

    sizes: Sequence[Sequence[float]]
    ratios: Sequence[float] = (0.5, 1.0, 2.0)
    offset: float = 0.0
    rounded: bool = True

    def __post_init__(self) -> None:
        flat = [size for level in self.sizes for size in level]
        right = flat and all(self.sizes) and self.ratios
        if not right or not all(value > 0 for value in [*flat, *self.ratios]):
            raise ValueError(
                "AnchorGrid: expected at least one size of each level, and ratios, all above 0, "
                f"got sizes={tuple(self.sizes)}, ratios={tuple(self.ratios)}"
            )

    @property
    def counts(self) -> list[int]:
        """Return how many anchors a cell of each level has."""
        return [len(level) * len(self.ratios) for level in self.sizes]

    def shapes(self, level: int) -> Tensor:
        """Return width and height of the anchors of a level in pixels, [A,2]."""
        ratios = torch.tensor(self.ratios).sqrt()[:, None]
        sizes = torch.tensor([float(size) for size in self.sizes[level]])
        return torch.stack([sizes / ratios, sizes * ratios], -1).reshape(-1, 2)

    def __call__(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return the anchors of all levels in one list, row by row, cell by cell: [P,4].

        Args:
            maps: One per level, [N,C,H,W]; only their shapes and their device are used.
            size: Height and width of the images in pixels.

        Raises:
            ValueError: When there is another number of maps.
        """
        refuse_other_levels("AnchorGrid", maps, len(self.sizes))
        return torch.cat([self._level(index, one, size) for index, one in enumerate(maps)])

    def _level(self, index: int, one: Tensor, size: tuple[int, int]) -> Tensor:
        rows, columns = one.shape[-2:]
        like = one.new_empty(0, dtype=torch.float32)
        step = like.new_tensor([size[1] // columns, size[0] // rows])  # whole pixels
        centres = (cell_corners(rows, columns, like) + self.offset) * step
        shapes = self.shapes(index).to(like)
        return lay(centres, (shapes / 2).round() * 2 if self.rounded else shapes)
